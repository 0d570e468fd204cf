//! Whether what a process claims is about this flow: moments that must lie in the flow's life, and ends
//! of which a probe may not have seen all.

use super::claims::is_once;
use super::entry::Flow;
use crate::event::{Claim, Moment, Source};
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_RAW, IPPROTO_TCP, IPPROTO_UDP};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

/// Clocks are compared to this: the kernel reads them one after the other.
const SLACK_NS: u64 = MS / 10;
/// A flow's time may be when we read of it, so much later than it began.
const READ_DELAY_NS: u64 = 2 * S;
/// Between a connect and its first packet there is only this machine's firewall.
const CONNECT_NS: u64 = 5 * MS;
/// What follows a flow's beginning so soon cannot be about the next one with the same ends.
const PROMPT_NS: u64 = MS;
/// What is sent again and again is claimed again in this time.
const SEND_NS: u64 = 10 * S;
/// A claim without ports counts for a flow that begins so soon after it.
const PORTLESS_NS: u64 = S;

/// How well it is known when a flow began.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    /// The kernel said so itself.
    pub is_kernel_time: bool,
    /// It was there before it was heard of, nobody knows since when.
    pub is_older: bool,
}

/// A flow's time on earth.
#[derive(Clone, Copy)]
pub(super) struct Span {
    began_ns: u64,
    timing: Timing,
    ended_ns: Option<u64>,
    /// Whether it would be known if it had ended.
    all_read: bool,
}

impl Span {
    pub fn of(flow: &Flow, timing: Timing, all_read: bool) -> Span {
        Span {
            all_read,
            began_ns: flow.start_ns().unwrap_or(flow.first_seen_ns()),
            timing,
            ended_ns: flow.end_ns(),
        }
    }

    /// The earliest that something which follows a flow's beginning can have happened.
    fn after_ns(&self) -> u64 {
        let delay = if self.timing.is_kernel_time {
            SLACK_NS
        } else {
            READ_DELAY_NS
        };
        self.began_ns.saturating_sub(delay)
    }

    /// Whether of two claims with the same ends that fit the first one, which is the older, is better.
    pub fn prefers(&self, claim: &Claim, than: &Claim) -> bool {
        if claim.evidence.rank != than.evidence.rank {
            claim.evidence.rank > than.evidence.rank
        } else if self.timing.is_kernel_time && is_once(claim) && is_once(than) {
            self.distance_ns(claim) < self.distance_ns(than)
        } else if is_once(claim) && begins(claim) != begins(than) {
            begins(claim)
        } else {
            is_earlier_flow(claim, than, self)
        }
    }

    /// How far a claim is from where it should be: what begins a flow shortly before it, what follows
    /// shortly after. On the wrong side of the beginning it is only for want of a better one.
    fn distance_ns(&self, claim: &Claim) -> u64 {
        let is_before = claim.at_ns <= self.began_ns;
        let wrong_side = if is_before == begins(claim) {
            0
        } else {
            SLACK_NS
        };
        claim.at_ns.abs_diff(self.began_ns) + wrong_side
    }
}

/// Of two claims that both fit and come from different flows with the same ends, whether the first,
/// older one is this flow's: where we only know when we read of the flow, several may have begun by
/// then, and are read in their order. What follows a beginning is likewise in order.
fn is_earlier_flow(older: &Claim, newer: &Claim, span: &Span) -> bool {
    let near = newer.at_ns.saturating_sub(older.at_ns) < READ_DELAY_NS / 2;
    is_once(older) && (!begins(older) || (!span.timing.is_kernel_time && near))
}

/// Whether a claim comes before its flow, one for each.
pub(super) fn begins(claim: &Claim) -> bool {
    claim.evidence.moment == Moment::Connect
}

/// Whether a claim answers the question whose a flow is. By now the socket may be of the next flow with
/// the same ends: that is known when all events are read once more.
pub(super) fn is_answer(claim: &Claim) -> bool {
    claim.evidence.source == Source::Diag
}

/// Whether a claim's moment lies in a flow's life.
pub(super) fn fits(claim: &Claim, span: &Span) -> bool {
    let at = claim.at_ns;
    let within = |ns: u64| at.saturating_add(ns) >= span.began_ns;
    let begins = at <= span.began_ns.saturating_add(SLACK_NS);
    let not_after_end = span
        .ended_ns
        .is_none_or(|ended| at <= ended.saturating_add(SLACK_NS));
    let is_prompt = at <= span.began_ns.saturating_add(PROMPT_NS);
    let is_this_one = span.all_read || is_prompt || !is_once(claim);
    let is_any = claim.ends.dst == [0; 16];
    let has_no_port = claim.ends.sport == 0 && claim.ends.dport == 0;
    let is_portless = has_no_port && has_more_than_addresses(&claim.ends);
    match claim.evidence.moment {
        Moment::Connect if span.timing.is_kernel_time => begins && within(CONNECT_NS),
        Moment::Connect => begins && within(READ_DELAY_NS),
        Moment::Send if is_portless => {
            begins && within(PORTLESS_NS + READ_DELAY_NS) && !span.timing.is_older
        }
        Moment::Send | Moment::Confirm => within(SEND_NS) && not_after_end,
        Moment::Receive if is_any => {
            // Who has the port now need not be who had it when the flow began.
            let soon = at <= span.began_ns.saturating_add(SEND_NS);
            at >= span.after_ns() && soon && !span.timing.is_older
        }
        Moment::Accept | Moment::Receive | Moment::PacketOut | Moment::PacketIn => {
            at >= span.after_ns() && not_after_end && is_this_one
        }
        Moment::Release => at >= span.after_ns() && is_this_one,
        Moment::Socket if is_any && claim.evidence.source == Source::Probe => {
            begins && !span.timing.is_older // it listens
        }
        Moment::Socket if is_any => false, // it may be another's by now: it is found by its cookie
        Moment::Socket if is_answer(claim) => at >= span.after_ns() && not_after_end,
        Moment::Socket => within(READ_DELAY_NS) && not_after_end,
    }
}

/// The ends that a probe may have claimed which does not see all of them.
pub(super) fn vague(ends: &Tuple) -> impl IntoIterator<Item = Tuple> {
    let unbound = Tuple {
        src: [0; 16],
        ..*ends
    };
    let any = |ends: Tuple| Tuple {
        dst: [0; 16],
        dport: 0,
        ..ends
    };
    let dual = Tuple {
        ipv6: true,
        ..any(unbound)
    };
    let is_icmp = matches!(ends.proto, IPPROTO_ICMP | IPPROTO_ICMPV6);
    let list = if is_icmp {
        [unbound, *ends, *ends, *ends]
    } else {
        [unbound, any(*ends), any(unbound), dual]
    };
    let exact = *ends;
    list.into_iter().filter(move |ends| *ends != exact)
}

/// What a probe may have claimed that sees raw sockets, but not what they send: for what protocol the
/// socket is, or that the process writes the headers itself, whatever protocol they say.
pub(super) fn portless(ends: &Tuple) -> [Tuple; 4] {
    let of = |src: [u8; 16], proto: u8| Tuple {
        src,
        proto,
        sport: 0,
        dport: 0,
        ..*ends
    };
    [
        of(ends.src, ends.proto),
        of([0; 16], ends.proto),
        of(ends.src, IPPROTO_RAW),
        of([0; 16], IPPROTO_RAW),
    ]
}

/// Whether a flow of this protocol has ports, or the id of ICMP. A claim of IPPROTO_RAW can be about
/// such a one.
pub(super) fn has_more_than_addresses(ends: &Tuple) -> bool {
    matches!(
        ends.proto,
        IPPROTO_ICMP | IPPROTO_ICMPV6 | IPPROTO_TCP | IPPROTO_UDP | IPPROTO_RAW
    )
}
