//! One step of a packet's way through the rules of a firewall, as the sources resolve it and the
//! reports show it.

/// Which firewall the step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Firewall {
    /// The legacy tables (x_tables).
    Legacy,
    /// nf_tables, with rules that iptables-nft made.
    IptablesNft,
    /// nf_tables.
    Nft,
}

impl Firewall {
    /// The name that its own program has.
    pub fn name(self) -> &'static str {
        match self {
            Firewall::Legacy => "iptables-legacy",
            Firewall::IptablesNft => "iptables-nft",
            Firewall::Nft => "nft",
        }
    }
}

/// What in a chain the packet met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepKind {
    /// A rule that matched.
    Rule,
    /// The policy of a base chain.
    Policy,
    /// The end of a user chain, back to the caller.
    Return,
}

impl StepKind {
    /// As the text report names it.
    pub fn name(self) -> &'static str {
        match self {
            StepKind::Rule => "rule",
            StepKind::Policy => "policy",
            StepKind::Return => "return",
        }
    }
}

/// What the step decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The packet may pass this base chain.
    Accept,
    /// It vanishes.
    Drop,
    /// It vanishes, and its sender is told, in this way: `tcp reset`, `icmp port-unreachable`, ...
    Reject(&'static str),
    /// On with the next rule.
    Continue,
    /// Into a chain, and back.
    Jump(Box<str>),
    /// Into a chain, and not back.
    Goto(Box<str>),
    /// Back to the calling chain.
    Return,
    /// To a program that decides.
    Queue,
    /// Taken by the kernel for something else.
    Stolen,
}

impl Verdict {
    /// Whether the packet went no further because of it.
    pub fn denies(&self) -> bool {
        matches!(self, Verdict::Drop | Verdict::Reject(_))
    }

    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Reject(_) => "reject",
            Verdict::Continue => "continue",
            Verdict::Jump(_) => "jump",
            Verdict::Goto(_) => "goto",
            Verdict::Return => "return",
            Verdict::Queue => "queue",
            Verdict::Stolen => "stolen",
        }
    }
}

/// What is known of a rule from its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleText {
    /// As its own program lists it, without its comment where that is kept apart; control characters
    /// are still in it.
    pub text: String,
    /// What the person who made it wrote down.
    pub comment: Option<String>,
    /// What it decides, where that does not depend on the packet.
    pub verdict: Option<Verdict>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Whose step.
    pub firewall: Firewall,
    /// `filter`, or with the family before it for nf_tables: `inet fw`.
    pub table: Box<str>,
    /// The chain.
    pub chain: Box<str>,
    /// Rule, policy or return.
    pub kind: StepKind,
    /// The rule's number in its chain, from 1.
    pub position: Option<u32>,
    /// The rule's handle in nf_tables.
    pub handle: Option<u64>,
    /// What it decided.
    pub verdict: Option<Verdict>,
    /// The rule as text; empty where it could not be had.
    pub rule: Box<str>,
    /// Its comment; empty where it has none.
    pub comment: Box<str>,
    /// The generation of the nf_tables ruleset that it was read from.
    pub generation: Option<u32>,
}

impl Step {
    /// Whether the packet went no further because of it.
    pub fn denies(&self) -> bool {
        self.verdict.as_ref().is_some_and(Verdict::denies)
    }
}
