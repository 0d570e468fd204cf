//! Which rules deny flows: what was denied, summed up by rule. It is fed by a table at the end of a
//! capture, or by the lines of a JSON report that was written before, and says the same of both.
//!
//! A rule is known by what it says and where it stands, not by its number in the chain or its handle:
//! a ruleset that is loaded again gives new handles, and a rule that is put in before others moves
//! them, yet the rule that denies is the same. Only where a rule's text could not be had do its
//! handle or its number tell it from its neighbours.

mod lines;
mod read;
#[cfg(test)]
mod tests;

pub use lines::write;
pub use read::{DeniedFlow, Identity, Line, Unusable};

use super::{Books, Shown, order, way};
use crate::flow::entry::Flow;
use crate::flow::key::Side;
use crate::flow::table::Table;
use crate::hashing::HashMap;
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::IPPROTO_GRE;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Different sources, destinations or ports that are remembered of a rule. Whoever floods a firewall
/// from made-up addresses chooses how many there are, and memory is not theirs to take.
const KEPT_MAX: usize = 1024;

/// What a rule, or a policy, is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// `iptables-legacy`, `iptables-nft`, `nft`
    pub firewall: Box<str>,
    /// `filter`, or with the family before it: `inet fw`.
    pub table: Box<str>,
    /// The chain.
    pub chain: Box<str>,
    /// `rule`, `policy`
    pub kind: Box<str>,
    /// The rule as text; empty where it could not be had.
    pub text: Box<str>,
    /// Its comment; empty where it has none.
    pub comment: Box<str>,
    /// `drop`, `reject`, `policy drop`
    pub verdict: Box<str>,
    /// How the sender is told.
    pub reject_with: Option<Box<str>>,
}

/// Where a rule was when it denied: this may change while the rule stays the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The rule's number in its chain, from 1.
    pub position: Option<u32>,
    /// Its handle in nf_tables.
    pub handle: Option<u64>,
    /// The generation of the ruleset that it was read from.
    pub generation: Option<u32>,
}

/// What a flow asked for: protocol and port, or type and code of ICMP. In the order of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    proto: u8,
    number: PortNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PortNumber {
    None,
    Port(u16),
    Icmp(u8, u8),
}

impl Port {
    fn of(tuple: &Tuple) -> Port {
        let number = if tuple.is_icmp() {
            let (kind, code, _) = tuple.icmp();
            PortNumber::Icmp(kind, code)
        } else if tuple.has_ports() && tuple.proto != IPPROTO_GRE {
            PortNumber::Port(tuple.dport)
        } else {
            PortNumber::None // a key of GRE is no port
        };
        Port {
            proto: tuple.proto,
            number,
        }
    }
}

/// A flow, or several that were folded, that a rule denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Who began it.
    pub source: IpAddr,
    /// Whom it was for, before translation.
    pub destination: IpAddr,
    /// What it asked for.
    pub port: Port,
    /// How many flows it stands for.
    pub flows: u64,
    /// How many packets were denied.
    pub attempts: u64,
    /// When it was first heard of, nanoseconds since 1970.
    pub first_ns: u64,
    /// When it was last heard of.
    pub last_ns: u64,
}

impl Denied {
    /// One flow as its first packet was sent.
    pub fn new(tuple: &Tuple, flows: u64, attempts: u64, [first_ns, last_ns]: [u64; 2]) -> Denied {
        Denied {
            source: address(tuple.ipv6, tuple.src),
            destination: address(tuple.ipv6, tuple.dst),
            port: Port::of(tuple),
            flows,
            attempts,
            first_ns,
            last_ns,
        }
    }

    fn of_flow(flow: &Flow, attempts: u32) -> Denied {
        let times = [flow.first_seen_ns(), flow.last_seen_ns()];
        let (flows, attempts) = (u64::from(flow.flow_count()), u64::from(attempts.max(1)));
        Denied::new(&flow.tuple(Side::Original), flows, attempts, times)
    }
}

fn address(ipv6: bool, bytes: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    if ipv6 {
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    }
}

/// Different values, so many of them and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept<T> {
    values: BTreeSet<T>,
    /// Flows with other values came when there was no room.
    more: bool,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept {
            values: BTreeSet::new(),
            more: false,
        }
    }
}

impl<T: Ord> Kept<T> {
    fn add(&mut self, value: T) {
        if self.values.len() < KEPT_MAX {
            self.values.insert(value);
        } else {
            self.more |= !self.values.contains(&value);
        }
    }
}

/// What a rule is to blame for.
#[derive(Clone, Debug)]
struct Guilt {
    rule: Rule,
    /// As of `last_ns`.
    place: Place,
    flows: u64,
    attempts: u64,
    sources: Kept<IpAddr>,
    destinations: Kept<IpAddr>,
    ports: Kept<Port>,
    first_ns: u64,
    last_ns: u64,
}

impl Guilt {
    fn note(&mut self, place: Place, denied: &Denied) {
        self.flows = self.flows.saturating_add(denied.flows);
        self.attempts = self.attempts.saturating_add(denied.attempts);
        self.sources.add(denied.source);
        self.destinations.add(denied.destination);
        self.ports.add(denied.port);
        self.first_ns = self.first_ns.min(denied.first_ns);
        if denied.last_ns >= self.last_ns {
            (self.last_ns, self.place) = (denied.last_ns, place);
        }
    }
}

/// The rules that denied flows.
#[derive(Clone, Debug, Default)]
pub struct Blame {
    guilts: Vec<Guilt>,
    /// Where a rule stands in `guilts`.
    known: HashMap<(Rule, Place), usize>,
}

impl Blame {
    /// What is to blame for the flows of a table.
    pub fn of_table(table: &Table, books: Books<'_>) -> Blame {
        let mut blame = Blame::default();
        let mut steps = HashMap::default(); // there are few steps, and each has much text
        // In the order of the report, so that a report read back says the same.
        for (place, _) in order::flows(table).iter() {
            let (flow, notes) = (table.flow(place), table.notes(place));
            let Some(id) = notes.traced.blamed() else {
                continue;
            };
            let found = *steps.entry(id).or_insert_with(|| {
                let (rule, place) = guilty(&Shown { flow, notes, books })?;
                Some((blame.find(&rule, place), place))
            });
            let Some((at, place)) = found else { continue };
            blame.guilts[at].note(place, &Denied::of_flow(flow, notes.traced.attempts));
        }
        blame
    }

    /// Adds what a rule denied. Returns the rule's number here.
    pub fn add(&mut self, rule: &Rule, place: Place, denied: &Denied) -> usize {
        let at = self.find(rule, place);
        self.guilts[at].note(place, denied);
        at
    }

    /// Adds what is newly told of a flow that was added before, for the rule with that number: it keeps
    /// the blame, whoever else denied the flow since.
    pub fn add_again(&mut self, at: usize, rule: &Rule, place: Place, denied: &Denied) {
        let Some(guilt) = self.guilts.get_mut(at) else {
            return;
        };
        let place = if guilt.rule == *rule {
            place
        } else {
            guilt.place
        };
        guilt.note(place, denied);
    }

    /// Whether no rule denied anything.
    pub fn is_empty(&self) -> bool {
        self.guilts.is_empty()
    }

    fn find(&mut self, rule: &Rule, place: Place) -> usize {
        let told_apart_by = match (&*rule.text, &*rule.kind, place.handle) {
            ("", "rule", Some(handle)) => Place {
                handle: Some(handle),
                ..Place::default()
            },
            ("", "rule", None) => Place {
                position: place.position,
                ..Place::default()
            },
            _ => Place::default(),
        };
        let guilts = &mut self.guilts;
        let key = (rule.clone(), told_apart_by);
        *self.known.entry(key).or_insert_with(|| {
            guilts.push(Guilt {
                rule: rule.clone(),
                place,
                flows: 0,
                attempts: 0,
                sources: Kept::default(),
                destinations: Kept::default(),
                ports: Kept::default(),
                first_ns: u64::MAX,
                last_ns: 0,
            });
            guilts.len() - 1
        })
    }
}

/// The step that a flow was denied by, in its own words.
fn guilty(shown: &Shown<'_>) -> Option<(Rule, Place)> {
    let decision = way::decision(shown)?;
    let step = decision.blame?;
    let rule = Rule {
        firewall: step.firewall.name().into(),
        table: step.table.clone(),
        chain: step.chain.clone(),
        kind: step.kind.name().into(),
        text: step.rule.clone(),
        comment: step.comment.clone(),
        verdict: decision.verdict.into(),
        reject_with: decision.reject_with.map(Into::into),
    };
    let place = Place {
        position: step.position,
        handle: step.handle,
        generation: step.generation,
    };
    Some((rule, place))
}
