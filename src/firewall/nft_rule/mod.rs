//! Rules of nf_tables as text: what `nft list ruleset` would say of them, from the attributes of
//! NFT_MSG_NEWRULE messages (include/uapi/linux/netfilter/nf_tables.h) alone.
//!
//! The kernel runs a small register machine; nft(8) compiles to it and, when it lists, compiles back.
//! So do we: expressions that load a register become words (`load`), those that test one become
//! tests (`compare`), the others statements (`act`, `nat`, `xtables`). `context` knows the headers
//! that a rule has established, by which bits of the packet become fields (`protocol`).
//!
//! Where we differ from nft(8) on purpose: counters have no numbers, since they change; interfaces
//! that a rule knows by their index are shown by it (`iif 3`), and times of day are UTC, since
//! nothing here asks the system. What we do not know is shown in angle brackets, never guessed.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::cast_possible_truncation
    )
)]

mod act;
mod compare;
mod context;
mod extension;
mod load;
mod names;
mod nat;
mod nest;
mod protocol;
mod register;
mod rule;
mod set;
mod value;
mod verdict;
mod xtables;

use crate::event::step::RuleText;
use crate::wire::attr::Attributes;
use crate::wire::kernel::*;
use crate::wire::kernel_nft::*;
use crate::wire::request::Request;

pub use set::Set;

use nest::Nest;
use rule::Rule;

/// What a rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its text as nft(8) writes it, its comment, its verdict.
    pub text: RuleText,
    /// iptables-nft made it: it has matches or targets of x_tables, or it stands in a base chain of
    /// one of iptables' tables.
    pub iptables: bool,
}

/// Describes a rule. `family` is the table's (NFPROTO_*), `rule` the attributes of an NFT_MSG_NEWRULE
/// message (enum nft_rule_attributes), `set` finds a set of the rule's table by its name. A set that
/// is not found is shown by its name.
pub fn describe<'s>(
    family: u8,
    rule: Attributes<'_>,
    set: &dyn Fn(&str) -> Option<&'s Set>,
) -> Described {
    let attributes = Nest(rule);
    let mut rule = Rule::new(family, set);
    for (name, data) in expressions(attributes) {
        rule.expression(&name, data);
    }
    let iptables = rule.xtables || is_of_iptables(family, attributes);
    let comment = attributes.get(NFTA_RULE_USERDATA).and_then(comment);
    let mut statements = rule.statements;
    statements.retain(|statement| !statement.is_empty());
    Described {
        text: RuleText {
            text: statements.join(" "),
            comment: comment.or(rule.comment),
            verdict: rule.verdict,
        },
        iptables,
    }
}

/// The names of the anonymous sets that a rule looks up, whose elements its text shows; the caller
/// fetches them (`elements_request`) before it calls `describe`.
pub fn anonymous_sets(rule: Attributes<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for (expression, data) in expressions(Nest(rule)) {
        let name = match expression.as_str() {
            "lookup" => data.text(NFTA_LOOKUP_SET),
            "objref" => data.text(NFTA_OBJREF_SET_NAME),
            _ => None,
        };
        if let Some(name) = name.filter(|name| set::is_anonymous_name(name)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Asks for the description of one set: one NFT_MSG_NEWSET message comes back, and an
/// acknowledgement. `family` is NFPROTO_*.
pub fn set_request(sequence: u32, family: u8, table: &str, name: &str) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETSET;
    let mut request = Request::new(kind, NLM_F_REQUEST | NLM_F_ACK, sequence, family);
    request.put_str(NFTA_SET_TABLE, table);
    request.put_str(NFTA_SET_NAME, name);
    request
}

/// Asks for all elements of one set: NFT_MSG_NEWSETELEM messages and NLMSG_DONE come back.
pub fn elements_request(sequence: u32, family: u8, table: &str, name: &str) -> Request {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETSETELEM;
    let mut request = Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, family);
    request.put_str(NFTA_SET_ELEM_LIST_TABLE, table);
    request.put_str(NFTA_SET_ELEM_LIST_SET, name);
    request
}

/// The expressions of a rule: name and attributes of each.
fn expressions(rule: Nest<'_>) -> impl Iterator<Item = (String, Nest<'_>)> {
    let list = rule.nest(NFTA_RULE_EXPRESSIONS).unwrap_or(Nest::new(&[]));
    list.all().map(|(_, expression)| {
        let expression = Nest::new(expression);
        let name = expression.text(NFTA_EXPR_NAME).unwrap_or_default();
        let data = expression.nest(NFTA_EXPR_DATA).unwrap_or(Nest::new(&[]));
        (name, data)
    })
}

/// The comment in a rule's user data, which the kernel only keeps: nft(8) writes triples of a type
/// (0 is the comment), a length and a string there.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = data {
        let (text, after) = rest.split_at_checked(usize::from(*len))?;
        if *kind == 0 {
            return Some(value::text(text));
        }
        data = after;
    }
    None
}

/// Whether table and chain are named as only iptables-nft does it.
fn is_of_iptables(family: u8, rule: Nest<'_>) -> bool {
    let is = |kind, names: &[&str]| {
        let name = rule.text(kind).unwrap_or_default();
        names.contains(&name.as_str())
    };
    let tables = ["filter", "nat", "mangle", "raw", "security"];
    let chains = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    matches!(family, NFPROTO_IPV4 | NFPROTO_IPV6)
        && is(NFTA_RULE_TABLE, &tables)
        && is(NFTA_RULE_CHAIN, &chains)
}

impl Rule<'_, '_> {
    fn expression(&mut self, name: &str, data: Nest<'_>) {
        const MASQ: [u16; 3] = [
            NFTA_MASQ_REG_PROTO_MIN,
            NFTA_MASQ_REG_PROTO_MAX,
            NFTA_MASQ_FLAGS,
        ];
        const REDIR: [u16; 3] = [
            NFTA_REDIR_REG_PROTO_MIN,
            NFTA_REDIR_REG_PROTO_MAX,
            NFTA_REDIR_FLAGS,
        ];
        match name {
            "payload" => self.load_payload(data),
            "meta" => self.meta(data),
            "ct" => self.ct(data),
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => self.lookup(data),
            "bitwise" => self.bitwise(data),
            "byteorder" => self.byteorder(data),
            "immediate" => self.immediate(data),
            "exthdr" | "tcpopt" => self.extension(data),
            "socket" => self.socket(data),
            "rt" => self.route(data),
            "fib" => self.fib(data),
            "numgen" => self.numgen(data),
            "hash" => self.hash(data),
            "osf" => self.osf(data),
            "xfrm" => self.xfrm(data),
            "nat" => self.nat(data),
            "masq" => self.translate_port(data, "masquerade", MASQ),
            "redir" => self.translate_port(data, "redirect", REDIR),
            "tproxy" => self.tproxy(data),
            "reject" => self.reject(data),
            "queue" => self.queue(data),
            "dup" => self.dup(data),
            "fwd" => self.forward(data),
            "objref" => self.object(data),
            "dynset" => self.dynamic_set(data),
            "match" => self.xt_match(data),
            "target" => self.xt_target(data),
            other => self.act(act::plain(other, data).unwrap_or(format!("<{other}>"))),
        }
    }
}
