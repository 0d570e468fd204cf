//! The order of a report: protocol, source address, destination address, source port, destination
//! port, all as numbers, so that neighbours in a subnet stand together.

use crate::flow::entry::Flow;
use crate::flow::key::Side;
use crate::flow::table::Table;
use crate::wire::kernel::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use std::cmp::Ordering;

/// Which part of the report a line belongs to: the six sections first, then other protocols by
/// number, IPv4 before IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section(u16);

const OTHERS: u16 = 6;

impl Section {
    /// How many sections there are.
    pub const COUNT: usize = OTHERS as usize + 2 * 256;

    /// The section of a protocol.
    pub fn new(proto: u8, ipv6: bool) -> Section {
        let family = u16::from(ipv6);
        Section(match (proto, ipv6) {
            (IPPROTO_TCP, _) => 3 * family,
            (IPPROTO_UDP, _) => 3 * family + 1,
            (IPPROTO_ICMP, false) | (IPPROTO_ICMPV6, true) => 3 * family + 2,
            _ => OTHERS + 2 * u16::from(proto) + family,
        })
    }

    /// A number below `COUNT`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The lines of a text report: both sides of a flow that was answered, the original side of others
/// and of all ICMP.
pub fn lines(table: &Table) -> impl Iterator<Item = (u32, Side)> {
    let mut lines = Vec::with_capacity(2 * table.len() as usize);
    for (place, flow) in table.iter() {
        lines.push(pack(place, Side::Original));
        // A flow that is not tracked has an answer where one was traced.
        let answered = flow.seen_reply() || table.traced(place).paths[1] != 0;
        if answered && !flow.is_icmp() {
            lines.push(pack(place, Side::Reply));
        }
    }
    sorted(table, lines)
}

/// The flows of a JSON report, by their original side.
pub fn flows(table: &Table) -> impl Iterator<Item = (u32, Side)> {
    let mut lines = Vec::with_capacity(table.len() as usize);
    lines.extend(table.iter().map(|(place, _)| pack(place, Side::Original)));
    sorted(table, lines)
}

fn sorted(table: &Table, mut lines: Vec<u32>) -> impl Iterator<Item = (u32, Side)> {
    lines.sort_unstable_by(|a, b| {
        let ((a_place, a_side), (b_place, b_side)) = (unpack(*a), unpack(*b));
        let (a_flow, b_flow) = (table.flow(a_place), table.flow(b_place));
        compare(a_flow, a_side, b_flow, b_side)
            .then_with(|| a_flow.first_seen_ns().cmp(&b_flow.first_seen_ns()))
            .then_with(|| a.cmp(b))
    });
    lines.into_iter().map(unpack)
}

/// Orders two lines; equal ones read the same.
pub fn compare(a: &Flow, a_side: Side, b: &Flow, b_side: Side) -> Ordering {
    let (a_tuple, b_tuple) = (a.tuple(a_side), b.tuple(b_side));
    Section::new(a_tuple.proto, a_tuple.ipv6)
        .cmp(&Section::new(b_tuple.proto, b_tuple.ipv6))
        .then_with(|| a_tuple.src.cmp(&b_tuple.src))
        .then_with(|| a_tuple.dst.cmp(&b_tuple.dst))
        .then_with(|| sort_ports(&a_tuple).cmp(&sort_ports(&b_tuple)))
        .then_with(|| (a.netns(), a.is_folded()).cmp(&(b.netns(), b.is_folded())))
}

/// An ICMP line shows type and code, not the id.
fn sort_ports(tuple: &crate::wire::conntrack::Tuple) -> (u16, u16) {
    (if tuple.is_icmp() { 0 } else { tuple.sport }, tuple.dport)
}

fn pack(place: u32, side: Side) -> u32 {
    place << 1 | side as u32
}

fn unpack(line: u32) -> (u32, Side) {
    (
        line >> 1,
        if line & 1 == 0 {
            Side::Original
        } else {
            Side::Reply
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_six_sections_come_first_in_the_seeds_order() {
        let order = [
            (6, false),
            (17, false),
            (1, false),
            (6, true),
            (17, true),
            (58, true),
            (2, false),
            (132, false),
            (132, true),
        ];
        let sections: Vec<Section> = order
            .iter()
            .map(|(proto, ipv6)| Section::new(*proto, *ipv6))
            .collect();
        assert!(sections.is_sorted() && sections.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(Section::new(255, true).index() < Section::COUNT);
    }
}
