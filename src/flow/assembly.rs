//! Hits to packets: which steps belong to one packet, and in which order it went through them.
//!
//! Theory of operation. Two streams tell of traced packets: nf_tables, whose messages carry a number
//! of the packet that the kernel gives again once it is gone, and the legacy tables, whose lines
//! carry the packet itself. Both may tell of the same packet, over two sockets, in either order.
//! An open packet takes the hits that can be its own: by its number, or by its head, which
//! stays recognisable through translation (`Head::becomes`), as long as they lead forward on its way.
//! A hit that would lead backward begins another packet. Of several packets that look alike the
//! oldest takes a hit first, since each stream keeps its order.
//!
//! A packet is closed when nothing was heard of it for a while and every event of that time has been
//! read, so that by then the table knows its flow if it has one. Its steps are then put in the order
//! of travel: by hook and priority, and the one that denied it last.

use super::chains::Chains;
use super::open::{Open, Ties};
use super::path::{StepId, Ways};
use super::reach::{Limits, Reach};
use super::sweep::InUse;
use crate::event::{Hit, Stream};
use crate::limits::OPEN_PACKETS;
use crate::wire::conntrack::Tuple;
use crate::wire::packet::Head;
use std::collections::VecDeque;

/// The turn of a slot without a packet.
const NEVER: u64 = 0;

/// A packet whose way is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet {
    /// As it came, before any translation.
    pub tuple: Tuple,
    /// As it was last seen, translated as far as it came.
    pub last: Tuple,
    /// Its conntrack entry's id and whether it goes in its reply direction, where known.
    pub conntrack: Option<(u32, bool)>,
    /// Its path.
    pub path: u32,
    /// The step that denied it, if one did.
    pub guilty: Option<StepId>,
    /// When its first step was read, nanoseconds since 1970.
    pub at_ns: u64,
}

/// A packet that was out of reach of a hit, as were all that look like it and are older.
#[derive(Clone, Copy, Debug, Default)]
struct OutOfReach {
    fingerprint: u64,
    limits: Limits,
    slot: usize,
    turn: u64,
}

/// The packets that are under way.
#[derive(Debug)]
pub struct Assembly {
    slots: Vec<Open>,
    free: Vec<usize>,
    /// The slots of the open packets, the oldest first.
    queue: VecDeque<usize>,
    /// What hits find them by: the number that they have in nf_tables, their fingerprint, and this with
    /// the ends that they had first, or have last where these are others by now.
    by_id: Chains,
    by_fingerprint: Chains,
    by_first: Chains,
    by_last: Chains,
    reach: Reach,
    /// By stream.
    out_of_reach: [OutOfReach; 2],
    turns: u64,
    /// Hits that belong to no packet that is open.
    pub orphans: u64,
    /// Packets with more steps than are kept.
    pub shortened: u64,
    /// Packets are traced from the first chain on, and those of settled flows no further than to our
    /// own chain behind conntrack: of these nothing is told, since their way goes on.
    pub lets_go: bool,
    ties: Ties,
}

impl Assembly {
    /// Room for `OPEN_PACKETS`.
    pub fn new() -> Assembly {
        Assembly {
            slots: Vec::with_capacity(OPEN_PACKETS),
            free: Vec::with_capacity(OPEN_PACKETS),
            queue: VecDeque::with_capacity(OPEN_PACKETS),
            by_id: Chains::new(),
            by_fingerprint: Chains::new(),
            by_first: Chains::new(),
            by_last: Chains::new(),
            reach: Reach::new(),
            out_of_reach: [OutOfReach::default(); 2],
            turns: 0,
            orphans: 0,
            shortened: 0,
            lets_go: false,
            ties: Ties::default(),
        }
    }

    /// Whether any packet is open.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes one hit. Where there is no room, the packet that was open longest is closed into `closed`.
    #[cfg_attr(small, optimize(speed))]
    pub fn take(&mut self, hit: &Hit, ways: &mut Ways, closed: &mut dyn FnMut(Packet)) {
        let slot = match (self.find(hit), &hit.head) {
            (Some(slot), _) => slot,
            (None, Some(head)) => self.open(head, hit, ways, closed),
            (None, None) => {
                // One whose head cannot be read has the number now, if it has come to another chain.
                if hit.station.is_some() {
                    self.release(hit.stream);
                }
                self.orphans += 1;
                return;
            }
        };
        if let Stream::Nft(id) = hit.stream {
            self.number(slot, Some(id));
        }
        let is_translated = |head: Head| head.tuple != self.slots[slot].last.tuple;
        if hit.head.is_some_and(is_translated) {
            self.leave_last(slot);
            self.shortened += u64::from(self.slots[slot].note(hit));
            self.enter_last(slot);
        } else {
            self.shortened += u64::from(self.slots[slot].note(hit));
        }
        self.reach.note(slot, &self.slots[slot]);
    }

    /// Closes packets of which nothing was heard since `before_ns`, the oldest first.
    #[cfg_attr(small, optimize(speed))]
    pub fn settle(&mut self, before_ns: u64, ways: &mut Ways, closed: &mut dyn FnMut(Packet)) {
        // What was denied tells of the others.
        for slot in &self.queue {
            self.slots[*slot].teach(&mut self.ties);
        }
        for _ in 0..self.queue.len() {
            let Some(slot) = self.queue.pop_front() else {
                break;
            };
            if self.slots[slot].last_ns >= before_ns {
                self.queue.push_back(slot); // all of them are taken in turn: their order stays
            } else {
                self.close(slot, ways, closed);
            }
        }
    }

    /// Nothing can have been heard later than now: where it seems so, the clock was set back.
    pub fn set_clock(&mut self, now_ns: u64) {
        for slot in &self.queue {
            let open = &mut self.slots[*slot];
            open.last_ns = open.last_ns.min(now_ns);
        }
    }

    /// Marks the steps of the packets that are under way.
    pub fn mark(&self, in_use: &mut InUse) {
        for slot in &self.queue {
            let open = &self.slots[*slot];
            let steps = open.steps().iter().map(|passed| passed.step);
            steps.chain(open.guilty).for_each(|step| in_use.step(step));
        }
    }

    /// Opens a packet; returns its slot.
    #[cfg_attr(small, optimize(speed))]
    fn open(
        &mut self,
        head: &Head,
        hit: &Hit,
        ways: &mut Ways,
        closed: &mut dyn FnMut(Packet),
    ) -> usize {
        self.release(hit.stream);
        if self.queue.len() == OPEN_PACKETS {
            if let Some(oldest) = self.queue.pop_front() {
                self.close(oldest, ways, closed);
            }
        }
        self.turns += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot].begin(head, hit, self.turns);
                slot
            }
            None => {
                self.slots.push(Open::new(head, hit, self.turns));
                self.slots.len() - 1
            }
        };
        self.by_fingerprint.enter(head.fingerprint, slot);
        self.by_first
            .enter(look(head.fingerprint, &head.tuple), slot);
        self.queue.push_back(slot);
        slot
    }

    /// Closes a packet that has left the queue.
    #[cfg_attr(small, optimize(speed))]
    fn close(&mut self, slot: usize, ways: &mut Ways, closed: &mut dyn FnMut(Packet)) {
        self.number(slot, None);
        self.leave_last(slot);
        let open = &mut self.slots[slot];
        let Head {
            fingerprint, tuple, ..
        } = &open.first;
        self.by_fingerprint.leave(*fingerprint, slot);
        self.by_first.leave(look(*fingerprint, tuple), slot);
        let packet = open.close(ways, &mut self.ties, self.lets_go);
        packet.into_iter().for_each(closed);
        open.turn = NEVER;
        self.free.push(slot);
    }

    /// Where its ends are others than at first, hits find it by these, too.
    fn enter_last(&mut self, slot: usize) {
        let Open { first, last, .. } = &self.slots[slot];
        if last.tuple != first.tuple {
            let key = look(first.fingerprint, &last.tuple);
            self.by_last.enter(key, slot);
        }
    }

    /// Before its ends become others.
    #[cfg_attr(small, optimize(speed))]
    fn leave_last(&mut self, slot: usize) {
        let Open { first, last, .. } = &self.slots[slot];
        if last.tuple != first.tuple {
            let key = look(first.fingerprint, &last.tuple);
            self.by_last.leave(key, slot);
        }
    }

    /// A packet has this number in nf_tables from now on, or none.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn number(&mut self, slot: usize, id: Option<u32>) {
        let before = std::mem::replace(&mut self.slots[slot].nft_id, id);
        if before == id {
            return;
        }
        if let Some(before) = before {
            self.by_id.leave(u64::from(before), slot);
        }
        if let Some(id) = id {
            self.by_id.enter(u64::from(id), slot);
        }
    }

    /// The number was given again: no packet that is open has it.
    #[cfg_attr(small, optimize(speed))]
    fn release(&mut self, stream: Stream) {
        let Stream::Nft(id) = stream else { return };
        if let Some(before) = self.numbered(id) {
            self.number(before, None);
        }
    }

    /// The packet that has a number in nf_tables, the youngest if there are more.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn numbered(&self, id: u32) -> Option<usize> {
        let slots = self.by_id.of(u64::from(id));
        slots
            .filter(|slot| self.slots[*slot].nft_id == Some(id))
            .max_by_key(|slot| self.slots[*slot].turn)
    }

    /// The slot of the packet that a hit belongs to.
    #[cfg_attr(small, optimize(speed))]
    fn find(&mut self, hit: &Hit) -> Option<usize> {
        if let Stream::Nft(id) = hit.stream {
            let slot = self.numbered(id);
            if let Some(slot) = slot.filter(|slot| self.slots[*slot].leads_on(hit)) {
                return Some(slot);
            }
        }
        let head = hit.head.as_ref()?;
        self.seen(head, hit)
            .or_else(|| self.may_have_become(head, hit))
    }

    /// The oldest packet that has these ends, or had them at first.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn seen(&self, head: &Head, hit: &Hit) -> Option<usize> {
        let key = look(head.fingerprint, &head.tuple);
        let slots = self.by_first.of(key).chain(self.by_last.of(key));
        let is_it = |slot: &usize| {
            let open = &self.slots[*slot];
            open.first.fingerprint == head.fingerprint
                && (open.first.tuple == head.tuple || open.last.tuple == head.tuple)
                && open.leads_on(hit)
                && open.is_free_for(hit)
        };
        slots
            .filter(is_it)
            .min_by_key(|slot| self.slots[*slot].turn)
    }

    /// The oldest packet that translation can have made this of; rather one that its stream has told of.
    /// The second guess: many packets to different ends look alike but for these.
    #[cfg_attr(small, optimize(speed))]
    fn may_have_become(&mut self, head: &Head, hit: &Hit) -> Option<usize> {
        let mut untold = None;
        let mut limits = Limits::of(hit);
        let mut alike = self.first_within_reach(head.fingerprint, hit.stream, limits);
        while let Some(slot) = alike {
            let open = &self.slots[slot];
            let can_be = open.first.fingerprint == head.fingerprint
                && open.leads_on(hit)
                && open.is_free_for(hit)
                && open.can_become(head);
            if can_be && open.told(hit.stream).progress.is_some() {
                return Some(slot);
            }
            if can_be && untold.is_none() {
                untold = Some(slot);
                limits = limits.of_told();
            }
            let next = self.by_fingerprint.next(slot);
            (alike, _) = self.within_reach(next, hit.stream, limits);
        }
        untold
    }

    /// The oldest of those that look alike to which a hit may belong. No packet goes back on its way, so
    /// the next search for the same begins behind those that were out of reach.
    #[cfg_attr(small, optimize(speed))]
    fn first_within_reach(
        &mut self,
        fingerprint: u64,
        stream: Stream,
        limits: Limits,
    ) -> Option<usize> {
        let passed = self.out_of_reach[usize::from(stream == Stream::Legacy)];
        let in_its_slot = self.slots.get(passed.slot).map(|open| open.turn);
        let is_same = (passed.fingerprint, passed.limits) == (fingerprint, limits)
            && in_its_slot == Some(passed.turn);
        let (first, before) = match is_same {
            true => (self.by_fingerprint.next(passed.slot), Some(passed.slot)),
            false => (self.by_fingerprint.first(fingerprint), None),
        };
        let (found, behind) = self.within_reach(first, stream, limits);
        debug_assert_eq!(found, {
            let oldest = self.by_fingerprint.first(fingerprint);
            self.within_reach(oldest, stream, limits).0
        });
        if let Some(slot) = behind.or(before) {
            self.out_of_reach[usize::from(stream == Stream::Legacy)] = OutOfReach {
                fingerprint,
                limits,
                slot,
                turn: self.slots[slot].turn,
            };
        }
        found
    }

    /// A slot or the next one in its chain to which a hit may belong, and the last one that was passed over.
    #[cfg_attr(small, optimize(speed))]
    #[inline(never)]
    fn within_reach(
        &self,
        mut at: Option<usize>,
        stream: Stream,
        limits: Limits,
    ) -> (Option<usize>, Option<usize>) {
        let reach = self.reach.of(stream);
        let mut passed_over = None;
        while let Some(slot) = at {
            if limits.allow(reach[slot]) {
                break;
            }
            passed_over = at;
            at = self.by_fingerprint.next(slot);
        }
        (at, passed_over)
    }
}

/// What packets are found by that look alike, ends included.
#[cfg_attr(small, optimize(speed))]
#[inline]
fn look(fingerprint: u64, tuple: &Tuple) -> u64 {
    let ends = u128::from_ne_bytes(tuple.src) ^ u128::from_ne_bytes(tuple.dst).rotate_left(31);
    let ports = u64::from(tuple.sport) << 48 | u64::from(tuple.dport) << 32;
    fingerprint.rotate_left(7) ^ (ends as u64) ^ ((ends >> 64) as u64) ^ ports
}

impl Default for Assembly {
    fn default() -> Self {
        Assembly::new()
    }
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
