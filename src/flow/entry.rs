//! One flow of the table: 144 bytes of plain values. Reached through accessors only, so that how
//! it is packed stays a matter of this file.

use super::key::{Key, Side};
use crate::event::{DumpPass, Event, Kind};
use crate::limits::{BYTES_PER_FLOW, SLOTS_PER_FLOW};
use crate::wire::conntrack::{Entry as Conntrack, Traffic, Tuple, Zone, ZoneDirection};
use crate::wire::kernel::IPS_SEEN_REPLY;
use std::cmp::Ordering;

/// A 48-bit counter: packets of one direction. Saturates.
type U48 = [u16; 3];

const FLAG_USED: u16 = 1 << 0;
const FLAG_IPV6: u16 = 1 << 1;
const FLAG_ENDED: u16 = 1 << 2;
const FLAG_END_KNOWN: u16 = 1 << 3;
const FLAG_START_KNOWN: u16 = 1 << 4;
const FLAG_FOLDED: u16 = 1 << 6;
const FLAG_ZONE_NOT_REPLY: u16 = 1 << 7;
const FLAG_ZONE_NOT_ORIGINAL: u16 = 1 << 8;
const FLAG_DUMP_PARITY: u16 = 1 << 9;
const FLAG_INDEXED: u16 = 1 << 10;
const FLAG_AHEAD: u16 = 1 << 11;
const FLAG_BEGAN_SINCE_DUMP: u16 = 1 << 12;
const FLAG_ENDED_SINCE_DUMP: u16 = 1 << 13;
const FLAG_UNCONFIRMED: u16 = 1 << 14;
/// By side: a count that could not be read is not zero.
const FLAGS_COUNTED: [u16; 2] = [1 << 5, 1 << 15];
const NO_TCP_STATE: u8 = u8::MAX;

/// How far a flow's life is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It was there when last heard of.
    Live,
    /// Its end was seen.
    Ended,
    /// A later dump did not have it any more: it ended unseen.
    Gone,
    /// Conntrack never confirmed it: only a trace has told of it.
    Unconfirmed,
}

/// The flows that a folded entry stands for, as far as they are believed to live.
#[derive(Clone, Copy)]
struct Members {
    live: u32,
    in_dump: u32,
}

/// A flow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Flow {
    bytes: [u64; 2],
    start_ns: u64,
    first_ns: u64,
    last_ns: u64,
    addresses: [[u8; 16]; 4],
    id_or_count: u32,
    mark: u32,
    netns: i32,
    packets: [U48; 2],
    ports: [u16; 4],
    zone: u16,
    status: u16,
    flags: u16,
    proto: u8,
    tcp_state: u8,
}

// An entry, its index slots, and its place in the queue of those that ended.
const _: () =
    assert!(size_of::<Flow>() + (SLOTS_PER_FLOW + 1) * size_of::<u32>() <= BYTES_PER_FLOW);

impl Flow {
    /// A flow as first heard of at `at_ns`.
    pub(super) fn new(entry: &Conntrack, netns: i32, at_ns: u64) -> Flow {
        let mut flow = Flow::default();
        flow.begin(entry, netns, at_ns);
        flow
    }

    /// The flow that an event is about, as the event has it.
    pub(super) fn of(event: &Event) -> Flow {
        let mut flow = Flow::default();
        flow.begin_by(event);
        flow
    }

    /// The same, in the place of one that is all zeroes: where that is in the table, nothing is copied.
    #[cfg_attr(small, optimize(speed))]
    #[inline(always)]
    pub(super) fn begin_by(&mut self, event: &Event) {
        self.begin(&event.entry, event.netns.unwrap_or(-1), event.at_ns);
        match event.kind {
            Kind::New if event.entry.start_ns.is_none() => self.set_start(event.at_ns),
            Kind::New | Kind::Update => {}
            Kind::Destroy => self.end(Some(event.at_ns)),
            Kind::Dumped(_) => self.set_ahead(true),
        }
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline(always)]
    fn begin(&mut self, entry: &Conntrack, netns: i32, at_ns: u64) {
        let (original, reply) = (&entry.original, &entry.reply);
        self.addresses = [original.src, original.dst, reply.src, reply.dst];
        self.ports = [original.sport, original.dport, reply.sport, reply.dport];
        self.proto = original.proto;
        self.id_or_count = entry.id.unwrap_or(0);
        self.netns = netns;
        (self.first_ns, self.last_ns) = (at_ns, at_ns);
        self.flags = FLAG_USED | FLAG_BEGAN_SINCE_DUMP;
        self.tcp_state = NO_TCP_STATE;
        self.set(FLAG_IPV6, original.ipv6);
        self.set_zone(entry.zone);
        self.refresh(entry, at_ns);
    }

    /// A free place, linked to the next one.
    pub(super) fn free(next: u32) -> Flow {
        Flow {
            id_or_count: next,
            ..Flow::default()
        }
    }

    /// The next free place after this one.
    pub(super) fn next_free(&self) -> u32 {
        debug_assert!(!self.is_used());
        self.id_or_count
    }

    /// Takes over what a later record says; what it does not say stays.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn refresh(&mut self, entry: &Conntrack, at_ns: u64) {
        if let Some(status) = entry.status {
            self.status = status as u16; // ip_conntrack_status has 16 bits (IPS_HW_OFFLOAD is 1 << 15)
        }
        if let Some(mark) = entry.mark {
            self.mark = mark;
        }
        if let Some(state) = entry.tcp_state {
            self.tcp_state = state;
        }
        if let (Some(id), false) = (entry.id, self.is_folded()) {
            self.id_or_count = id;
        }
        if let Some(start_ns) = entry.start_ns {
            self.set_start(start_ns);
        }
        self.last_ns = self.last_ns.max(at_ns);
        self.set_traffic(entry, false);
    }

    /// Sets the counters, or adds to them.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn set_traffic(&mut self, entry: &Conntrack, add: bool) {
        if let Some(traffic) = &entry.traffic_original {
            self.set_traffic_of(Side::Original, traffic, add);
        }
        if let Some(traffic) = &entry.traffic_reply {
            self.set_traffic_of(Side::Reply, traffic, add);
        }
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn set_traffic_of(&mut self, side: Side, traffic: &Traffic, add: bool) {
        let side = side as usize;
        let (packets, bytes) = if add {
            (from_u48(self.packets[side]), self.bytes[side])
        } else {
            (0, 0)
        };
        self.packets[side] = to_u48(packets.saturating_add(traffic.packets));
        self.bytes[side] = bytes.saturating_add(traffic.bytes);
        self.set(FLAGS_COUNTED[side], true);
    }

    /// The kernel stamps the event a little before the entry: nobody sees a flow before it began.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn set_start(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
        self.first_ns = self.first_ns.max(start_ns);
        self.set(FLAG_START_KNOWN, true);
    }

    /// Ends the flow; `at_ns` is `None` when nobody saw it end.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn end(&mut self, at_ns: Option<u64>) {
        self.set(FLAG_ENDED | FLAG_ENDED_SINCE_DUMP, true);
        if let Some(at_ns) = at_ns {
            self.set(FLAG_END_KNOWN, true);
            self.last_ns = at_ns;
        }
    }

    /// Only a trace has told of it: it is not newer than anything that conntrack says.
    pub(super) fn set_unconfirmed(&mut self) {
        self.set(FLAG_UNCONFIRMED, true);
        self.set(FLAG_BEGAN_SINCE_DUMP, false);
    }

    /// Another packet of it was traced, where only traces tell of it.
    pub(super) fn see_unconfirmed(&mut self, at_ns: u64, id: Option<u32>) {
        if self.flag(FLAG_UNCONFIRMED) {
            self.last_ns = self.last_ns.max(at_ns);
            self.id_or_count = id.unwrap_or(self.id_or_count);
        }
    }

    /// Turns this flow into one entry for all flows that differ only in their client port.
    pub(super) fn fold(&mut self, in_this_dump: bool) {
        self.ports[0] = 0;
        if self.is_icmp() {
            self.ports[2] = 0;
        } else {
            self.ports[3] = 0;
        }
        self.id_or_count = 1;
        self.tcp_state = NO_TCP_STATE;
        self.set(FLAG_FOLDED, true);
        self.set(FLAG_START_KNOWN, false);
        self.set_members(Members {
            live: 1,
            in_dump: u32::from(in_this_dump),
        });
    }

    /// Takes another flow into this folded entry.
    pub(super) fn absorb(&mut self, other: &Flow, in_this_dump: bool) {
        debug_assert!(self.is_folded());
        let members = self.members();
        self.set_members(Members {
            live: members.live.saturating_add(1),
            in_dump: members.in_dump.saturating_add(u32::from(in_this_dump)),
        });
        self.id_or_count = self.id_or_count.saturating_add(1);
        self.status |= other.status & IPS_SEEN_REPLY as u16;
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        for side in 0..2 {
            let packets =
                from_u48(self.packets[side]).saturating_add(from_u48(other.packets[side]));
            self.packets[side] = to_u48(packets);
            self.bytes[side] = self.bytes[side].saturating_add(other.bytes[side]);
        }
        self.flags |= other.flags & (FLAGS_COUNTED[0] | FLAGS_COUNTED[1]);
    }

    /// Notes an event of one of the flows that this entry stands for. Returns how many flows it
    /// counts more than before.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn absorb_event(&mut self, event: &Event) -> u32 {
        let mut members = self.members();
        let mut added = 0;
        match event.kind {
            Kind::New => (members.live, added) = (members.live.saturating_add(1), 1),
            Kind::Dumped(_) => members.in_dump = members.in_dump.saturating_add(1),
            Kind::Destroy if members.live == 0 => added = 1, // its beginning was lost
            Kind::Destroy => members.live -= 1,
            Kind::Update => {}
        }
        self.set_members(members);
        self.id_or_count = self.id_or_count.saturating_add(added);
        self.status |= event.entry.status.unwrap_or(0) as u16 & IPS_SEEN_REPLY as u16;
        self.last_ns = self.last_ns.max(event.at_ns);
        // The kernel's counters are totals of one flow: they count once, at its end or at ours.
        if matches!(event.kind, Kind::Destroy | Kind::Dumped(DumpPass::Final)) {
            self.set_traffic(&event.entry, true);
        }
        added
    }

    /// A dump begins: nothing has happened since, and none of the flows that a folded entry stands
    /// for was seen in it.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn begin_dump(&mut self) {
        self.set(FLAG_BEGAN_SINCE_DUMP | FLAG_ENDED_SINCE_DUMP, false);
        if self.is_folded() {
            let members = self.members();
            self.set_members(Members {
                in_dump: 0,
                ..members
            });
        }
    }

    /// Whether it was first heard of since the last dump began.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn began_since_dump(&self) -> bool {
        self.flag(FLAG_BEGAN_SINCE_DUMP)
    }

    /// Whether its end was heard of since the last dump began.
    pub(super) fn ended_since_dump(&self) -> bool {
        self.flag(FLAG_ENDED_SINCE_DUMP)
    }

    /// A dump ended: more flows in it than we knew to be live are flows whose events were lost.
    /// Returns how many flows the entry counts more than before.
    pub(super) fn finish_dump(&mut self) -> u32 {
        let members = self.members();
        let added = members.in_dump.saturating_sub(members.live);
        self.id_or_count = self.id_or_count.saturating_add(added);
        self.set_members(Members {
            live: members.live.max(members.in_dump),
            ..members
        });
        added
    }

    /// A folded entry has no start of its own; its field holds what is known of its members.
    fn members(&self) -> Members {
        Members {
            live: self.start_ns as u32,
            in_dump: (self.start_ns >> 32) as u32,
        }
    }

    fn set_members(&mut self, members: Members) {
        self.start_ns = u64::from(members.live) | u64::from(members.in_dump) << 32;
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn set_zone(&mut self, zone: Zone) {
        self.zone = zone.id;
        self.set(
            FLAG_ZONE_NOT_REPLY,
            zone.direction == ZoneDirection::Original,
        );
        self.set(
            FLAG_ZONE_NOT_ORIGINAL,
            zone.direction == ZoneDirection::Reply,
        );
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn set(&mut self, flag: u16, on: bool) {
        if on {
            self.flags |= flag
        } else {
            self.flags &= !flag
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn flag(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_used(&self) -> bool {
        self.flag(FLAG_USED)
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.flag(FLAG_INDEXED)
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn set_indexed(&mut self, on: bool) {
        self.set(FLAG_INDEXED, on);
    }

    /// Whether only a dump has told of it so far, which may have been ahead of the events.
    pub(super) fn is_ahead(&self) -> bool {
        self.flag(FLAG_AHEAD)
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn set_ahead(&mut self, on: bool) {
        self.set(FLAG_AHEAD, on);
    }

    pub(super) fn dump_parity(&self) -> bool {
        self.flag(FLAG_DUMP_PARITY)
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn set_dump_parity(&mut self, parity: bool) {
        self.set(FLAG_DUMP_PARITY, parity);
    }

    /// The zone that holds for a side.
    fn zone_of(&self, side: Side) -> u16 {
        let unzoned = match side {
            Side::Original => FLAG_ZONE_NOT_ORIGINAL,
            Side::Reply => FLAG_ZONE_NOT_REPLY,
        };
        if self.flag(unzoned) { 0 } else { self.zone }
    }

    /// Orders flows so that those which differ only in their client port are neighbours; in no order
    /// that means anything else.
    pub(super) fn group_order(&self, other: &Flow) -> Ordering {
        let group = |flow: &Flow| {
            let [src, dst, ..] = flow.addresses.map(u128::from_ne_bytes);
            let l4 = (flow.ports[1], flow.proto, flow.flags & FLAG_IPV6);
            (dst, src, l4, flow.zone_of(Side::Original), flow.netns)
        };
        group(self).cmp(&group(other))
    }

    /// The key that a side is found by.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn key(&self, side: Side) -> Key {
        Key {
            tuple: self.tuple(side),
            zone: self.zone_of(side),
            netns: self.netns,
            folded: self.is_folded(),
            unconfirmed: self.flag(FLAG_UNCONFIRMED),
        }
    }

    /// Whether this is the key of a side.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn has_key(&self, side: Side, key: &Key) -> bool {
        let at = 2 * side as usize;
        let tuple = &key.tuple;
        self.addresses[at] == tuple.src
            && self.addresses[at + 1] == tuple.dst
            && [self.ports[at], self.ports[at + 1]] == [tuple.sport, tuple.dport]
            && self.key(side) == *key
    }

    /// The sides that it is found by: a folded entry and one that only a trace told of have their
    /// original side only.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn sides(&self) -> &'static [Side] {
        if self.is_folded() || self.flag(FLAG_UNCONFIRMED) {
            &[Side::Original]
        } else {
            &[Side::Original, Side::Reply]
        }
    }

    /// The sides that have slots of their own in the index, where these are the hashes of its keys.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn slots(&self, hashes: [u64; 2]) -> &'static [Side] {
        let sides = self.sides();
        if hashes[0] == hashes[1] {
            &sides[..1]
        } else {
            sides
        }
    }

    /// The side that is found by a key.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn side_of(&self, key: &Key) -> Option<Side> {
        if self.has_key(Side::Original, key) {
            return Some(Side::Original);
        }
        (self.has_key(Side::Reply, key) && self.sides().len() > 1).then_some(Side::Reply)
    }

    /// The tuple of a side. The client port of a folded entry is zero.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn tuple(&self, side: Side) -> Tuple {
        let at = 2 * side as usize;
        Tuple {
            ipv6: self.flag(FLAG_IPV6),
            proto: self.proto,
            src: self.addresses[at],
            dst: self.addresses[at + 1],
            sport: self.ports[at],
            dport: self.ports[at + 1],
        }
    }

    /// Whether this is ICMP (ICMPv6 over IPv6).
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn is_icmp(&self) -> bool {
        self.tuple(Side::Original).is_icmp()
    }

    /// CTA_ID; `None` where no record had one, for a folded entry, and for a flow that conntrack never
    /// confirmed. Zero stands for none: an address is never that, and a hash of one hardly ever.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn id(&self) -> Option<u32> {
        let has_id = !self.is_folded() && !self.flag(FLAG_UNCONFIRMED) && self.id_or_count != 0;
        has_id.then_some(self.id_or_count)
    }

    /// The id of the entry that conntrack had made for its last packet and never confirmed, where
    /// the trace said it.
    pub(super) fn unconfirmed_id(&self) -> Option<u32> {
        (self.flag(FLAG_UNCONFIRMED) && self.id_or_count != 0).then_some(self.id_or_count)
    }

    /// How many flows this entry stands for; 1 unless folded.
    pub fn flow_count(&self) -> u32 {
        if self.is_folded() {
            self.id_or_count
        } else {
            1
        }
    }

    /// Whether client ports were folded.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn is_folded(&self) -> bool {
        self.flag(FLAG_FOLDED)
    }

    /// Conntrack mark.
    #[cfg_attr(small, optimize(speed))]
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Conntrack zone.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn zone(&self) -> Zone {
        let direction = if self.flag(FLAG_ZONE_NOT_REPLY) {
            ZoneDirection::Original
        } else if self.flag(FLAG_ZONE_NOT_ORIGINAL) {
            ZoneDirection::Reply
        } else {
            ZoneDirection::Both
        };
        Zone {
            id: self.zone,
            direction,
        }
    }

    /// Namespace id where it is not our own.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn netns(&self) -> Option<i32> {
        (self.netns >= 0).then_some(self.netns)
    }

    /// IPS_* bits.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn status(&self) -> u32 {
        u32::from(self.status)
    }

    /// Whether an answer was seen.
    #[cfg_attr(small, optimize(speed))]
    pub fn seen_reply(&self) -> bool {
        self.status() & IPS_SEEN_REPLY != 0
    }

    /// enum tcp_conntrack, where known.
    pub fn tcp_state(&self) -> Option<u8> {
        (self.tcp_state != NO_TCP_STATE).then_some(self.tcp_state)
    }

    /// What the kernel counted on a side, where it counts.
    pub fn traffic(&self, side: Side) -> Option<Traffic> {
        let at = side as usize;
        self.flag(FLAGS_COUNTED[at]).then(|| Traffic {
            packets: from_u48(self.packets[at]),
            bytes: self.bytes[at],
        })
    }

    /// When the flow began, where known; nanoseconds since 1970 (all times).
    pub fn start_ns(&self) -> Option<u64> {
        self.flag(FLAG_START_KNOWN).then_some(self.start_ns)
    }

    /// When it ended, where known.
    pub fn end_ns(&self) -> Option<u64> {
        self.flag(FLAG_END_KNOWN).then_some(self.last_ns)
    }

    /// When it was first heard of.
    #[cfg_attr(small, optimize(speed))]
    pub fn first_seen_ns(&self) -> u64 {
        self.first_ns
    }

    /// When it was last heard of.
    pub fn last_seen_ns(&self) -> u64 {
        self.last_ns
    }

    /// How far its life is known.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn life(&self) -> Life {
        if self.flag(FLAG_UNCONFIRMED) {
            return Life::Unconfirmed;
        }
        match (self.flag(FLAG_ENDED), self.flag(FLAG_END_KNOWN)) {
            (false, _) => Life::Live,
            (true, true) => Life::Ended,
            (true, false) => Life::Gone,
        }
    }
}

#[cfg_attr(small, optimize(speed))]
fn to_u48(value: u64) -> U48 {
    let value = value.min((1 << 48) - 1);
    [value as u16, (value >> 16) as u16, (value >> 32) as u16]
}

#[cfg_attr(small, optimize(speed))]
fn from_u48([low, middle, high]: U48) -> u64 {
    u64::from(low) | u64::from(middle) << 16 | u64::from(high) << 32
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
