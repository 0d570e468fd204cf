//! The order of a report: protocol, source address, destination address, source port, destination
//! port, all as numbers, so that neighbours in a subnet stand together.

use super::radix;
use crate::flow::entry::Flow;
use crate::flow::key::Side;
use crate::flow::table::Table;
use crate::wire::kernel::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

/// Which part of the report a line belongs to: the six sections first, then other protocols by
/// number, IPv4 before IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section(u16);

const OTHERS: u16 = 6;

impl Section {
    /// How many sections there are.
    pub const COUNT: usize = OTHERS as usize + 2 * 256;

    /// The section of a protocol.
    #[cfg_attr(small, optimize(speed))]
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
    #[cfg_attr(small, optimize(speed))]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The lines of a text report: both sides of a flow that was answered, the original side of others
/// and of all ICMP.
#[cfg_attr(small, optimize(speed))]
pub fn lines(table: &Table) -> Order {
    Order::new(table, |place, flow| {
        // A flow that is not tracked has an answer where one was traced.
        let answered = flow.seen_reply() || table.traced(place).paths[1] != 0;
        answered && !flow.is_icmp()
    })
}

/// The flows of a JSON report, by their original side.
#[cfg_attr(small, optimize(speed))]
pub fn flows(table: &Table) -> Order {
    Order::new(table, |_, _| false)
}

/// Lines in their order, 8 bytes each: in the low half the place and the side, in the high half a
/// part of what they are sorted by, since each look at a flow is a walk to somewhere else in memory.
#[derive(Debug)]
pub struct Order(Vec<u64>);

impl Order {
    /// Places and sides.
    #[cfg_attr(small, optimize(speed))]
    pub fn iter(&self) -> impl Iterator<Item = (u32, Side)> {
        self.0.iter().copied().map(unpack)
    }

    /// The same, some lines at a time.
    #[cfg_attr(small, optimize(speed))]
    pub fn batches(
        &self,
        len: usize,
    ) -> impl Iterator<Item = impl Iterator<Item = (u32, Side)> + Clone> {
        let batches = self.0.chunks(len);
        batches.map(|batch| batch.iter().copied().map(unpack))
    }

    #[cfg_attr(small, optimize(speed))]
    fn new(table: &Table, has_reply: impl Fn(u32, &Flow) -> bool) -> Order {
        let each = |take: &mut dyn FnMut(usize, u64)| {
            for (place, flow) in table.iter() {
                let tuple = flow.tuple(Side::Original);
                let section = Section::new(tuple.proto, tuple.ipv6).index();
                take(section, keyed(flow, place, Side::Original, 0));
                if has_reply(place, flow) {
                    take(section, keyed(flow, place, Side::Reply, 0));
                }
            }
        };
        let mut ends = vec![0; Section::COUNT];
        each(&mut |section, _| ends[section] += 1);
        let mut count = 0;
        for end in &mut ends {
            (*end, count) = (count, count + *end);
        }
        let mut lines = vec![0; count];
        each(&mut |section, line| {
            lines[ends[section]] = line;
            ends[section] += 1;
        });
        let mut start = 0;
        for end in ends {
            sort(table, &mut lines[start..end], 0);
            start = end;
        }
        Order(lines)
    }
}

/// Sorts lines of one section by the part of their key that they hold, and where that is the same, by
/// the next one. What is the same in all of them stays in the order of places.
#[cfg_attr(small, optimize(speed))]
fn sort(table: &Table, lines: &mut [u64], part: usize) {
    radix::sort(lines);
    for same in lines.chunk_by_mut(|a, b| a >> 32 == b >> 32) {
        let is_ipv6 = match same {
            [first, _, ..] => table.flow(unpack(*first).0).tuple(Side::Original).ipv6,
            _ => continue,
        };
        let next = match part {
            0 | DESTINATION if !is_ipv6 => part + 4,
            LAST => continue,
            _ => part + 1,
        };
        for line in &mut *same {
            let (place, side) = unpack(*line);
            *line = keyed(table.flow(place), place, side, next);
        }
        sort(table, same, next);
    }
}

/// The parts of a key: four of the source's address (IPv4: one), four of the destination's, and these.
const DESTINATION: usize = 4;
const PORTS: usize = 8;
const NETNS: usize = 9;
const FOLDED: usize = 10;
const FIRST_SEEN: usize = 11;
const LAST: usize = 12;

/// A line with a part of its key above it.
#[cfg_attr(small, optimize(speed))]
#[inline]
fn keyed(flow: &Flow, place: u32, side: Side, part: usize) -> u64 {
    let tuple = flow.tuple(side);
    let word = |address, at| (u128::from_be_bytes(address) >> (96 - 32 * at)) as u32;
    let key = match part {
        ..DESTINATION => word(tuple.src, part),
        DESTINATION..PORTS => word(tuple.dst, part - DESTINATION),
        // An ICMP line shows type and code, not the id.
        PORTS if tuple.is_icmp() => u32::from(tuple.dport),
        PORTS => u32::from(tuple.sport) << 16 | u32::from(tuple.dport),
        NETNS => flow.netns().map_or(0, |netns| netns.unsigned_abs() + 1),
        FOLDED => u32::from(flow.is_folded()),
        FIRST_SEEN => (flow.first_seen_ns() >> 32) as u32,
        _ => flow.first_seen_ns() as u32,
    };
    u64::from(key) << 32 | u64::from(place << 1 | side as u32)
}

#[cfg_attr(small, optimize(speed))]
#[inline]
fn unpack(line: u64) -> (u32, Side) {
    let side = match line & 1 {
        0 => Side::Original,
        _ => Side::Reply,
    };
    (line as u32 >> 1, side)
}

#[cfg(test)]
mod tests {
    use super::super::block::random;
    use super::*;
    use crate::counters::Counters;
    use crate::event::{Event, Kind};
    use crate::wire::conntrack::{Entry, Tuple, Zone, ZoneDirection};
    use crate::wire::kernel::IPS_SEEN_REPLY;
    use std::cmp::Ordering;

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

    /// Few values of each field, so that lines are the same up to any of them.
    fn some_flows() -> Table {
        let mut random = random();
        let mut one_of = |values: &[u64]| values[random.next().unwrap() as usize % values.len()];
        let mut table = Table::new(3000, [1, 2]);
        let mut counters = Counters::default();
        for at_ns in 1..5000 {
            let ipv6 = one_of(&[0, 0, 1]) == 1;
            let protocols = [6, 17, if ipv6 { 58 } else { 1 }, 47, 132, 2];
            let mut address = || {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&[
                    one_of(&[0, 10, 200]) as u8,
                    0,
                    3,
                    one_of(&[7, 9]) as u8,
                ]);
                if ipv6 {
                    bytes[7] = one_of(&[0, 1]) as u8;
                    bytes[8] = one_of(&[0, 0x80]) as u8;
                    bytes[15] = one_of(&[0, 255]) as u8;
                }
                bytes
            };
            let (src, dst) = (address(), address());
            let original = Tuple {
                ipv6,
                proto: one_of(&protocols) as u8,
                src,
                dst,
                sport: one_of(&[1, 2, 0x100, 0xff00]) as u16,
                dport: one_of(&[1, 0x80, 0x8000]) as u16,
            };
            let zone = Zone {
                id: one_of(&[0, 0, 1]) as u16,
                direction: ZoneDirection::Both,
            };
            let entry = Entry {
                original,
                reply: original.inverse(),
                id: Some(at_ns as u32),
                status: Some(one_of(&[0, IPS_SEEN_REPLY.into()]) as u32),
                zone,
                ..Entry::default()
            };
            let event = Event {
                kind: Kind::New,
                netns: [None, None, Some(0), Some(i32::MAX)][one_of(&[0, 1, 2, 3]) as usize],
                at_ns: one_of(&[1, 2, 1 << 32, 1 << 63]),
                is_kernel_time: false,
                entry,
            };
            table.apply(&event, &mut counters, &mut ());
        }
        assert!(counters.folded > 0);
        table
    }

    fn compare(a: (&Flow, Side), b: (&Flow, Side)) -> Ordering {
        let (a_tuple, b_tuple) = (a.0.tuple(a.1), b.0.tuple(b.1));
        let ports = |tuple: &Tuple| match tuple.is_icmp() {
            true => (0, tuple.dport),
            false => (tuple.sport, tuple.dport),
        };
        let section = |tuple: &Tuple| Section::new(tuple.proto, tuple.ipv6);
        let last = |flow: &Flow| (flow.netns(), flow.is_folded(), flow.first_seen_ns());
        section(&a_tuple)
            .cmp(&section(&b_tuple))
            .then_with(|| a_tuple.src.cmp(&b_tuple.src))
            .then_with(|| a_tuple.dst.cmp(&b_tuple.dst))
            .then_with(|| ports(&a_tuple).cmp(&ports(&b_tuple)))
            .then_with(|| last(a.0).cmp(&last(b.0)))
    }

    #[test]
    fn lines_are_sorted_by_all_that_they_say() {
        let table = some_flows();
        let mut expected = Vec::new();
        for (place, flow) in table.iter() {
            expected.push((place, Side::Original));
            if flow.seen_reply() && !flow.is_icmp() {
                expected.push((place, Side::Reply));
            }
        }
        let order = |a: &(u32, Side), b: &(u32, Side)| {
            compare((table.flow(a.0), a.1), (table.flow(b.0), b.1)).then(a.cmp(b))
        };
        expected.sort_by(order);
        assert!(lines(&table).iter().eq(expected.iter().copied()));
        let batches = lines(&table);
        assert!(batches.batches(7).flatten().eq(expected.iter().copied()));
        expected.retain(|(_, side)| *side == Side::Original);
        assert!(flows(&table).iter().eq(expected));
    }
}
