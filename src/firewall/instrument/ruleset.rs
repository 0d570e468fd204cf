//! The rules of our table. In nft's words, without the variant for everything:
//!
//! ```text
//! chain pre { type filter hook prerouting priority -190; policy accept
//!     ct status assured accept
//!     icmpv6 type 133-137 accept
//!     update @seen4 { ip saddr . ip daddr . meta l4proto . th sport . th dport limit rate over 2/minute burst 2 packets } accept
//!     update @seen6 { ... } accept
//!     goto trace
//! }
//! chain trace {
//!     limit rate over 2000/second burst 2000 packets counter accept
//!     meta nftrace set 1 accept
//! }
//! ```
//!
//! and the same at the output hook. A flow is traced until it is answered for good, at most two
//! packets of each direction at once; one that is dropped again and again, now and then. Everything that
//! `ct packets` could tell would switch accounting on for good.
//!
//! For everything, these chains stand before raw, where no flow is known yet and each may have five
//! packets traced; behind conntrack the trace bit is cleared again where the flow is known well enough:
//!
//! ```text
//! ct status assured ip saddr . ip daddr . meta l4proto . th sport . th dport @traced4 meta nftrace set 0 accept
//! ```

use super::Wishes;
use crate::event::BEHIND_CONNTRACK;
use crate::limits::{TRACE_KEY_MEMORY_SHARE, TRACE_KEY_TIMEOUT_MS, TRACE_KEYS_MAX, TRACE_KEYS_MIN};
use crate::sys::machine;
use crate::wire::attr::Attributes;
use crate::wire::kernel::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, NF_INET_LOCAL_OUT, NF_INET_PRE_ROUTING, NFPROTO_INET,
    NFPROTO_IPV4, NFPROTO_IPV6, NFTA_RULE_CHAIN,
};
use crate::wire::kernel_trace::*;
use crate::wire::nftables::expression::{self as rule, Limit};
use crate::wire::nftables::{Batch, KeySet, has_comment, text_of};
use crate::wire::request::Request;

/// The chains that packets enter by. Behind conntrack (-200), before anything that a firewall does:
const PRE: &str = "pre";
const OUT: &str = "out";
/// and, for everything, before the chains at the priority of raw (-300) too.
const RAW_PRE: &str = "raw_pre";
const RAW_OUT: &str = "raw_out";
const BEFORE_RAW: i32 = -310;
/// The chain that they lead to.
pub const TRACE: &str = "trace";

/// Where in its hook a packet is that one of these chains tells of; the chain that they lead to tells
/// of it before any other.
pub fn priority(chain: &[u8]) -> i32 {
    if [PRE, OUT].iter().any(|name| chain == name.as_bytes()) {
        BEHIND_CONNTRACK
    } else {
        BEFORE_RAW
    }
}

/// The family of our table, which both families' packets pass.
pub const FAMILY: u8 = NFPROTO_INET;

/// Each rule has it, so that whoever lists them sees whose they are, and we do.
const COMMENT: &str = "conntracker";

/// How long a flow that is silent is remembered with what was traced of it,
const OF_EACH_TIMEOUT_MS: u64 = TRACE_KEY_TIMEOUT_MS as u64;
/// and a packet that we made traced: until it comes to the next chain of ours. There its trace bit is
/// cleared if its flow is known well enough, and not that of packets that somebody else traces.
const TRACED_TIMEOUT_MS: u64 = 20;

/// The packets of one key (a direction of a flow) that are traced.
const OF_EACH: Limit = Limit {
    rate: 2,
    unit_s: 60,
    burst: 2,
};
/// The same for everything: five attempts of a flow that is dropped.
const OF_EACH_FOR_EVERYTHING: Limit = Limit {
    rate: 6,
    unit_s: 60,
    burst: 5,
};

/// The highest rate that makes sense to a kernel that counts in nanoseconds.
const RATE_MAX: u32 = 1_000_000;

/// One form of our table.
#[derive(Clone, Copy, Debug)]
pub struct Ruleset {
    wishes: Wishes,
    keys: u32,
    /// Counts what the common rate leaves out.
    counter: bool,
    /// Limits each flow for itself.
    each: bool,
}

/// Whether a rule of our table is one of ours.
pub fn is_ours(rule: Attributes<'_>) -> bool {
    chain_of(rule).is_some() && has_comment(rule, COMMENT)
}

/// The chain of ours that a rule of our table is in, if it is in one.
pub fn chain_of(rule: Attributes<'_>) -> Option<&'static str> {
    let in_trace = text_of(rule, NFTA_RULE_CHAIN) == Some(TRACE.as_bytes());
    entry_of(rule).or(in_trace.then_some(TRACE))
}

/// The chain that packets enter by that a rule of our table is in, if so.
pub fn entry_of(rule: Attributes<'_>) -> Option<&'static str> {
    let chain = text_of(rule, NFTA_RULE_CHAIN);
    let entries = [PRE, OUT, RAW_PRE, RAW_OUT];
    entries
        .into_iter()
        .find(|name| chain == Some(name.as_bytes()))
}

impl Ruleset {
    /// The full form of what is wished for.
    pub fn of(wishes: &Wishes) -> Ruleset {
        Ruleset {
            wishes: *wishes,
            keys: keys(machine::memory_bytes()),
            counter: true,
            each: true,
        }
    }

    /// This form, and simpler ones for kernels that lack something.
    pub fn forms(self) -> [Ruleset; 3] {
        let uncounted = Ruleset {
            counter: false,
            ..self
        };
        let common = Ruleset {
            each: false,
            ..self
        };
        [self, uncounted, common]
    }

    /// The family that is not wanted, if one is not: NFPROTO_*. The table is one of inet also then: nft
    /// 1.0.6 aborts when it lists such keys in a table of one family.
    fn unwanted(&self) -> Option<u8> {
        match (self.wishes.ipv4, self.wishes.ipv6) {
            (true, false) => Some(NFPROTO_IPV6),
            (false, true) => Some(NFPROTO_IPV4),
            _ => None,
        }
    }

    /// The chains that packets enter by, with hook and priority.
    fn base_chains(&self) -> Vec<(&'static str, u32, i32)> {
        let (pre, out) = (u32::from(NF_INET_PRE_ROUTING), u32::from(NF_INET_LOCAL_OUT));
        let mut chains = Vec::new();
        if self.wishes.everything {
            chains.extend([(RAW_PRE, pre, BEFORE_RAW), (RAW_OUT, out, BEFORE_RAW)]);
        }
        if !self.wishes.everything || self.wishes.conntrack {
            chains.extend([(PRE, pre, BEHIND_CONNTRACK), (OUT, out, BEHIND_CONNTRACK)]);
        }
        chains
    }

    /// Puts sets, chains and rules into the table.
    pub fn fill(&self, batch: &mut Batch<'_>) {
        for flows in self.flows() {
            batch.new_set(flows.set(flows.seen, OF_EACH_TIMEOUT_MS, self.keys));
            if self.wishes.everything {
                batch.new_set(flows.set(flows.traced, TRACED_TIMEOUT_MS, self.keys));
            }
        }
        self.fill_trace(batch);
        for (chain, hook, priority) in self.base_chains() {
            batch.new_base_chain(chain, hook, priority);
            let behind_conntrack = priority == BEHIND_CONNTRACK;
            if behind_conntrack && self.wishes.everything {
                for flows in self.flows() {
                    batch.new_rule_with_comment(chain, COMMENT, |put| {
                        settled(put);
                        flows.key(put, false);
                        rule::find_key(put, flows.traced);
                        rule::set_trace(put, false);
                        rule::accept(put);
                    });
                }
                continue;
            }
            if behind_conntrack && self.wishes.conntrack {
                batch.new_rule_with_comment(chain, COMMENT, |put| {
                    settled(put);
                    rule::accept(put);
                });
            }
            self.fill_entry(batch, chain);
        }
    }

    fn fill_trace(&self, batch: &mut Batch<'_>) {
        let rate = self.wishes.rate.clamp(1, RATE_MAX);
        let of_all = Limit {
            rate,
            unit_s: 1,
            burst: rate,
        };
        batch.new_chain(TRACE);
        batch.new_rule_with_comment(TRACE, COMMENT, |put| {
            rule::beyond(put, of_all);
            if self.counter {
                rule::counter(put);
            }
            rule::accept(put);
        });
        if self.wishes.everything && self.wishes.conntrack {
            for flows in self.flows() {
                batch.new_rule_with_comment(TRACE, COMMENT, |put| {
                    flows.key(put, false);
                    rule::enter_key(put, flows.traced, TRACED_TIMEOUT_MS, None);
                });
            }
        }
        batch.new_rule_with_comment(TRACE, COMMENT, |put| {
            rule::set_trace(put, true);
            rule::accept(put);
        });
    }

    /// The rules that choose packets.
    fn fill_entry(&self, batch: &mut Batch<'_>, chain: &str) {
        if let Some(unwanted) = self.unwanted() {
            batch.new_rule_with_comment(chain, COMMENT, |put| {
                rule::meta(put, NFT_META_NFPROTO, 0);
                rule::compare(put, 0, NFT_CMP_EQ, &[unwanted]);
                rule::accept(put);
            });
        }
        if self.wishes.ipv6 && !self.wishes.everything {
            batch.new_rule_with_comment(chain, COMMENT, neighbours);
        }
        let limit = Some(self.of_each());
        for flows in self.flows() {
            // Most packets are not ICMP.
            for icmp in [false, true] {
                batch.new_rule_with_comment(chain, COMMENT, |put| {
                    flows.key(put, icmp);
                    rule::enter_key(put, flows.seen, OF_EACH_TIMEOUT_MS, limit);
                    rule::accept(put);
                });
            }
        }
        batch.new_rule_with_comment(chain, COMMENT, |put| rule::goto(put, TRACE));
    }

    fn of_each(&self) -> Limit {
        if self.wishes.everything {
            OF_EACH_FOR_EVERYTHING
        } else {
            OF_EACH
        }
    }

    fn flows(&self) -> impl Iterator<Item = &'static Flows> {
        let each = self.each;
        let wanted = [(self.wishes.ipv4, &FLOWS4), (self.wishes.ipv6, &FLOWS6)];
        let wanted = wanted
            .into_iter()
            .filter(move |(wanted, _)| each && *wanted);
        wanted.map(|(_, flows)| flows)
    }
}

/// Matches packets of a flow that was answered for good: it is known well enough.
fn settled(put: &mut Request) {
    rule::ct(put, NFT_CT_STATUS, 0);
    rule::mask(put, 0, IPS_ASSURED);
    rule::compare(put, 0, NFT_CMP_NEQ, &[0; 4]);
}

/// What hosts on a link ask each other all the time, and what no flow has.
fn neighbours(put: &mut Request) {
    rule::meta(put, NFT_META_L4PROTO, 0);
    rule::compare(put, 0, NFT_CMP_EQ, &[IPPROTO_ICMPV6]);
    rule::payload(put, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 0);
    rule::compare(put, 0, NFT_CMP_GTE, &[NDISC_FIRST]);
    rule::compare(put, 0, NFT_CMP_LTE, &[NDISC_LAST]);
    rule::accept(put);
}

/// The flows of one family, as sets know them: by source and destination address, protocol, and two
/// times two bytes that tell its flows apart.
struct Flows {
    nfproto: u8,
    icmp: u8,
    /// The set of flows with what was traced of each, and its number.
    seen: (&'static str, u32),
    /// The set of flows that a packet was traced of just now.
    traced: (&'static str, u32),
    key_types: &'static [u32],
    /// Where in the header the source address stands, and the length of an address.
    source: u32,
    address_len: u32,
}

// nft's numbers of types (enum datatypes in its include/datatype.h).
const TYPE_IPADDR: u32 = 7;
const TYPE_IP6ADDR: u32 = 8;
const TYPE_INET_PROTOCOL: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;

const FLOWS4: Flows = Flows {
    nfproto: NFPROTO_IPV4,
    icmp: IPPROTO_ICMP,
    seen: ("seen4", 1),
    traced: ("traced4", 3),
    key_types: &[
        TYPE_IPADDR,
        TYPE_IPADDR,
        TYPE_INET_PROTOCOL,
        TYPE_INET_SERVICE,
        TYPE_INET_SERVICE,
    ],
    source: 12,
    address_len: 4,
};

const FLOWS6: Flows = Flows {
    nfproto: NFPROTO_IPV6,
    icmp: IPPROTO_ICMPV6,
    seen: ("seen6", 2),
    traced: ("traced6", 4),
    key_types: &[
        TYPE_IP6ADDR,
        TYPE_IP6ADDR,
        TYPE_INET_PROTOCOL,
        TYPE_INET_SERVICE,
        TYPE_INET_SERVICE,
    ],
    source: 8,
    address_len: 16,
};

impl Flows {
    fn set(&self, (name, id): (&'static str, u32), timeout_ms: u64, size: u32) -> KeySet<'static> {
        KeySet {
            name,
            id,
            key_types: self.key_types,
            key_len: 2 * self.address_len + 3 * 4, // each part takes whole registers
            size,
            timeout_ms,
        }
    }

    /// Loads the key of a packet of this family, ICMP or not; does not match other packets.
    fn key(&self, put: &mut Request, icmp: bool) {
        let same = if icmp { NFT_CMP_EQ } else { NFT_CMP_NEQ };
        // ICMP: type and code, and behind the checksum, which differs in each packet, the number of an
        // echo. Else the ports, or what stands in their place.
        let (first, second) = if icmp { (0, 4) } else { (0, 2) };
        rule::meta(put, NFT_META_NFPROTO, 0);
        rule::compare(put, 0, NFT_CMP_EQ, &[self.nfproto]);
        rule::meta(put, NFT_META_L4PROTO, 0);
        rule::compare(put, 0, same, &[self.icmp]);
        let (len, header) = (self.address_len, NFT_PAYLOAD_NETWORK_HEADER);
        let transport = NFT_PAYLOAD_TRANSPORT_HEADER;
        let protocol = 2 * len / 4; // the register behind both addresses
        rule::payload(put, header, self.source, len, 0);
        rule::payload(put, header, self.source + len, len, len / 4);
        rule::meta(put, NFT_META_L4PROTO, protocol);
        rule::payload(put, transport, first, 2, protocol + 1);
        rule::payload(put, transport, second, 2, protocol + 2);
    }
}

/// How many flows the kernel remembers for us on a machine with this much memory.
fn keys(memory_bytes: u64) -> u32 {
    u32::try_from(memory_bytes / TRACE_KEY_MEMORY_SHARE)
        .unwrap_or(u32::MAX)
        .clamp(TRACE_KEYS_MIN, TRACE_KEYS_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Rung;
    use super::*;
    use crate::wire::kernel::{
        NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFTA_RULE_EXPRESSIONS,
    };
    use crate::wire::message::Messages;
    use crate::wire::nftables::has_expression;

    const WISHES: Wishes = Wishes {
        rung: Rung::Auto,
        everything: false,
        rate: 2000,
        conntrack: true,
        ipv4: true,
        ipv6: true,
    };

    /// The messages of a batch that fills the table, by number and attributes.
    fn batch(ruleset: &Ruleset) -> Vec<(u16, Vec<u8>)> {
        let mut batch = Batch::new(FAMILY, "t");
        ruleset.fill(&mut batch);
        let (request, acknowledged) = batch.finish();
        let messages: Vec<_> = Messages::new(request.bytes())
            .map(|message| message.unwrap())
            .map(|message| (message.kind & 0xff, message.body[4..].to_vec()))
            .collect();
        assert_eq!(messages.len(), acknowledged as usize + 2); // and its begin and end
        messages
    }

    fn count(wishes: Wishes, kind: u16) -> usize {
        let messages = batch(&Ruleset::of(&wishes));
        messages
            .iter()
            .filter(|(number, _)| *number == kind)
            .count()
    }

    fn uses_conntrack(wishes: Wishes) -> bool {
        let rules = batch(&Ruleset::of(&wishes));
        let mut rules = rules.iter().filter(|(kind, _)| *kind == NFT_MSG_NEWRULE);
        rules.any(|(_, rule)| {
            has_expression(Attributes::new(rule), |name, _| name == b"ct", |_| false)
        })
    }

    #[test]
    fn each_wish_has_its_chains_sets_and_rules() {
        let everything = Wishes {
            everything: true,
            ..WISHES
        };
        let of = |wishes| {
            [NFT_MSG_NEWCHAIN, NFT_MSG_NEWSET, NFT_MSG_NEWRULE].map(|kind| count(wishes, kind))
        };
        assert_eq!(of(WISHES), [3, 2, 2 + 2 * 7]);
        assert_eq!(of(everything), [5, 4, 4 + 2 * 5 + 2 * 2]);
        let wishes = Wishes {
            conntrack: false,
            ..WISHES
        };
        assert_eq!(of(wishes), [3, 2, 2 + 2 * 6]);
        let wishes = Wishes {
            ipv6: false,
            ..WISHES
        };
        assert_eq!(of(wishes), [3, 1, 2 + 2 * 5]);
        assert_eq!(Ruleset::of(&wishes).unwanted(), Some(NFPROTO_IPV6));
    }

    #[test]
    fn conntrack_is_referred_to_only_where_it_may_be() {
        for everything in [false, true] {
            for conntrack in [false, true] {
                let wishes = Wishes {
                    everything,
                    conntrack,
                    ..WISHES
                };
                assert_eq!(uses_conntrack(wishes), conntrack);
            }
        }
    }

    #[test]
    fn every_rule_is_known_as_ours_in_every_form() {
        for form in Ruleset::of(&WISHES).forms() {
            for (kind, attributes) in batch(&form) {
                let rule = Attributes::new(&attributes);
                assert_eq!(is_ours(rule), kind == NFT_MSG_NEWRULE);
            }
        }
        let mut somebodys = Request::new(0, 0, 0, 0);
        somebodys.put_str(NFTA_RULE_CHAIN, PRE);
        somebodys.nest(NFTA_RULE_EXPRESSIONS, rule::counter);
        assert!(!is_ours(Attributes::new(&somebodys.bytes()[20..])));
    }

    #[test]
    fn a_small_machine_remembers_fewer_flows() {
        assert_eq!(keys(24 << 30), 65_536);
        assert_eq!(keys(1 << 30), 65_536);
        assert_eq!(keys(256 << 20), 16_384);
        assert_eq!(keys(8 << 20), 1024);
    }
}
