//! The flow table: a fixed arena of flows, found from either tuple, with room made when it is full.
//!
//! Theory of operation. Memory is asked for once; a place is taken from the free list or, at first,
//! from the untouched end of the arena, so that an idle table costs little. A flow that ended stays
//! in the arena for the report, and in the index for records that come late, until room is needed
//! (reclaim.rs) or until a new flow with the same key takes over its slots. Identity is the key
//! (tuple, zone, namespace) together with the kernel's id: the same key with another id is another
//! flow, and proves that the old one has ended.
//!
//! Dumps and events reach us over two sockets, and either may be ahead of the other. A dump may be
//! behind the events: a flow that ended while the dump ran is not brought back by it, and one that
//! began meanwhile is not replaced. Events may be behind a dump: what the dump brought is marked as
//! ahead until an event is about it or all events of that time have been read, and late events of
//! the flow before it do not replace it. Each dump flips a parity; what was live and
//! was neither dumped nor heard of meanwhile is gone, though nobody saw it go.

use super::entry::{Flow, Life};
use super::index::Index;
use super::key::{Hasher, Key, Side};
use super::notes::Notes;
use super::owned::Ownership;
use super::traced::Traced;
use crate::counters::Counters;
use crate::event::{DumpPass, Event, Kind};
use crate::limits::{CAPACITY_MAX, SLOTS_PER_FLOW};
use std::collections::VecDeque;
use std::mem::MaybeUninit;

/// What an event meant for a flow; told to an observer together with the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It began.
    Started,
    /// It was there already when we first heard of it.
    Existing,
    /// It ended.
    Ended,
    /// It is not there any more, and nobody saw it end.
    Gone,
    /// The way of its packets became known, or it was seen in a trace only.
    Traced,
    /// The process at an end of it became known.
    Owned,
}

/// Is told of changes as they happen, also of flows that the table has no room for.
pub trait Observer {
    /// Whether anything becomes of what it is told.
    fn is_there(&self) -> bool {
        true
    }

    /// Called after the change was made.
    fn changed(&mut self, change: Change, flow: &Flow, notes: Notes);
}

impl Observer for () {
    fn is_there(&self) -> bool {
        false
    }

    fn changed(&mut self, _: Change, _: &Flow, _: Notes) {}
}

/// An event whose flow may enter the table.
struct Candidate<'e> {
    event: &'e Event,
    /// The hashes of its keys, by side.
    hashes: [u64; 2],
    /// No flow in the index has a key of it.
    is_unknown: bool,
}

/// What the index knows of the flow that an event is about.
enum Known {
    /// No flow with its key.
    Nothing,
    /// The flow with its key and its id.
    Same(u32, Life),
    /// Another flow that had the key before.
    Older,
    /// Another flow that has the key since: the event is late.
    Newer,
}

pub(super) const NO_PLACE: u32 = u32::MAX;

/// The table.
#[derive(Debug)]
pub struct Table {
    pub(super) flows: Vec<Flow>,
    pub(super) index: Index,
    /// The places of flows that ended, the oldest first. While it is empty, folding sorts in it.
    pub(super) ended: VecDeque<u32>,
    pub(super) capacity: u32,
    pub(super) used_count: u32,
    pub(super) folded_count: u32,
    pub(super) rest_before_fold: u32,
    pub(super) next_rest: u32,
    free: u32,
    pub(super) dump_parity: bool,
    /// Events that were queued before the last dump ended may still come.
    dump_is_ahead: bool,
    /// What tracing knows, by place; nothing where it is off.
    pub(super) traced: Option<Vec<Traced>>,
    pub(super) unconfirmed_count: u32,
    /// Conntrack zones that flows were seen in, as far as they are kept.
    pub(super) zones: [u16; ZONES_KEPT],
    /// What attribution knows; nothing where it is off.
    pub(super) ownership: Option<Ownership>,
    pub(super) hasher: Hasher,
}

/// A firewall with zones has few of them.
const ZONES_KEPT: usize = 8;

impl Table {
    /// A table for `capacity` flows (1 to `CAPACITY_MAX`); `seed` keys its hash.
    pub fn new(capacity: u32, seed: [u64; 2]) -> Table {
        assert!(
            (1..=CAPACITY_MAX).contains(&capacity),
            "the command line has checked the capacity"
        );
        let hasher = Hasher::new(seed);
        Table {
            flows: Vec::with_capacity(capacity as usize),
            index: Index::new(capacity as usize * SLOTS_PER_FLOW, hasher),
            ended: VecDeque::with_capacity(capacity as usize),
            capacity,
            used_count: 0,
            folded_count: 0,
            rest_before_fold: 0,
            next_rest: 0,
            free: NO_PLACE,
            dump_parity: false,
            dump_is_ahead: false,
            traced: None,
            unconfirmed_count: 0,
            zones: [0; ZONES_KEPT],
            ownership: None,
            hasher,
        }
    }

    /// How many entries the table holds.
    pub fn len(&self) -> u32 {
        self.used_count
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.used_count == 0
    }

    /// How many it can hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Where no flow was yet, the next place first.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn room(&mut self) -> &mut [MaybeUninit<Flow>] {
        self.flows.spare_capacity_mut()
    }

    /// All entries with their places, in no order.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Flow)> {
        (0..).zip(&self.flows).filter(|(_, flow)| flow.is_used())
    }

    /// The flow at a place that `iter` or `find` gave.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn flow(&self, place: u32) -> &Flow {
        &self.flows[place as usize]
    }

    /// The flow and side that a key leads to.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn find(&self, key: &Key) -> Option<(u32, Side)> {
        self.index.find(&self.flows, key, self.hasher.hash(key))
    }

    /// Applies one event.
    pub fn apply(&mut self, event: &Event, counters: &mut Counters, observer: &mut impl Observer) {
        self.apply_hashed(event, self.hashes(event), counters, observer);
    }

    /// The hashes of the keys of an event's flow, by side.
    #[cfg_attr(small, optimize(speed))]
    pub fn hashes(&self, event: &Event) -> [u64; 2] {
        let original = self.hasher.hash(&Key::of(event, Side::Original));
        let reply = self.hasher.hash(&Key::of(event, Side::Reply));
        [original, reply]
    }

    /// What is looked at first for a flow with this hash.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn first_slot(&self, hash: u64) -> &u32 {
        self.index.first_slot(hash)
    }

    /// Applies one event whose flow has these hashes.
    #[cfg_attr(small, optimize(speed))]
    pub fn apply_hashed(
        &mut self,
        event: &Event,
        hashes: [u64; 2],
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        if (self.traced.is_some() || self.ownership.is_some()) && event.netns.is_none() {
            self.note_zone(event.entry.zone.id);
        }
        let known = self.known(event, hashes);
        let candidate = Candidate {
            event,
            hashes,
            is_unknown: matches!(known, Known::Nothing),
        };
        match event.kind {
            Kind::New => self.apply_new(&candidate, known, counters, observer),
            Kind::Update => self.apply_update(&candidate, known, counters, observer),
            Kind::Destroy => self.apply_destroy(&candidate, known, counters, observer),
            Kind::Dumped(_) => self.apply_dumped(&candidate, known, counters, observer),
        }
    }

    /// A dump begins: from now on, what is heard of is known to live.
    pub fn begin_dump(&mut self) {
        self.dump_parity = !self.dump_parity;
        self.dump_is_ahead = true;
        self.flows.iter_mut().for_each(Flow::begin_dump);
    }

    /// A dump of our own namespace came to its end: what it did not have is gone.
    pub fn finish_dump(&mut self, counters: &mut Counters, observer: &mut impl Observer) {
        for place in 0..self.flows.len() as u32 {
            let flow = &mut self.flows[place as usize];
            if !flow.is_used() || flow.netns().is_some() {
                continue;
            }
            if flow.is_folded() {
                counters.folded += u64::from(flow.finish_dump());
            } else if flow.life() == Life::Live && flow.dump_parity() != self.dump_parity {
                self.end(place, None);
                self.tell(Change::Gone, place, observer);
            }
        }
    }

    /// Every event that was queued before the last dump ended has been applied.
    pub fn caught_up(&mut self) {
        self.dump_is_ahead = false;
    }

    #[cfg_attr(small, optimize(speed))]
    fn apply_new(
        &mut self,
        candidate: &Candidate<'_>,
        known: Known,
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        let event = candidate.event;
        match known {
            // A dump was ahead of this event.
            Known::Same(place, Life::Live) if self.flow(place).is_ahead() => {
                let flow = &mut self.flows[place as usize];
                if flow.start_ns().is_none() {
                    flow.set_start(event.at_ns);
                }
                self.refresh(place, event);
            }
            Known::Newer => self.enter_past(event, counters, observer),
            // The kernel gives an id again, with its memory: then it is the same id, another flow.
            Known::Same(..) | Known::Older | Known::Nothing => {
                self.enter(candidate, Change::Started, counters, observer);
            }
        }
    }

    fn apply_update(
        &mut self,
        candidate: &Candidate<'_>,
        known: Known,
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        match known {
            Known::Same(place, Life::Live) => self.refresh(place, candidate.event),
            Known::Newer => counters.stale += 1,
            _ => self.enter(candidate, Change::Existing, counters, observer),
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn apply_destroy(
        &mut self,
        candidate: &Candidate<'_>,
        known: Known,
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        match known {
            Known::Same(place, Life::Live | Life::Gone) => {
                self.refresh(place, candidate.event);
                self.end(place, Some(candidate.event.at_ns));
                self.tell(Change::Ended, place, observer);
            }
            Known::Newer => counters.stale += 1,
            Known::Same(..) | Known::Older | Known::Nothing => {
                self.enter(candidate, Change::Ended, counters, observer);
            }
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn apply_dumped(
        &mut self,
        candidate: &Candidate<'_>,
        known: Known,
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        match known {
            Known::Same(place, Life::Live) => self.refresh(place, candidate.event),
            // Its end was ahead of the dump.
            Known::Same(place, Life::Ended) if self.flow(place).ended_since_dump() => {}
            Known::Newer => {}
            _ => self.enter(candidate, Change::Existing, counters, observer),
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn note_zone(&mut self, zone: u16) {
        if zone != 0 && !self.zones.contains(&zone) {
            if let Some(free) = self.zones.iter_mut().find(|known| **known == 0) {
                *free = zone;
            }
        }
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn tell(&self, change: Change, place: u32, observer: &mut impl Observer) {
        if observer.is_there() {
            observer.changed(change, &self.flows[place as usize], self.notes(place));
        }
    }

    /// What other sources than conntrack know of the flow at a place.
    #[cfg_attr(small, optimize(speed))]
    pub fn notes(&self, place: u32) -> Notes {
        Notes {
            traced: self.traced(place),
            owned: self.owned(place),
        }
    }

    /// What those are that the index has under the keys of an event's entry, which have these hashes.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn known(&self, event: &Event, hashes: [u64; 2]) -> Known {
        let find = |side| {
            let side_of = |flow: &Flow| flow.side_of(&Key::of(event, side));
            self.index
                .find_by(&self.flows, hashes[side as usize], side_of)
        };
        let original = find(Side::Original);
        if let Some((place, Side::Original)) = original {
            let flow = &self.flows[place as usize];
            if flow.is_before(event) {
                return Known::Older; // its id was given again, and what told of that was lost
            }
            if flow.may_be(event) {
                return Known::Same(place, flow.life());
            }
        }
        // Events come in order, so only what a dump brought can be newer than what an event says;
        // and a dump may be behind everything that was heard since it began.
        let from_dump = matches!(event.kind, Kind::Dumped(_));
        let is_newer = |found: Option<(u32, Side)>| {
            found.is_some_and(|(place, _)| {
                let flow = &self.flows[place as usize];
                let ahead = self.dump_is_ahead && flow.is_ahead();
                flow.began_since_dump() && (from_dump || ahead)
            })
        };
        let reply = find(Side::Reply);
        match (original, reply) {
            (None, None) => Known::Nothing,
            _ if is_newer(original) || is_newer(reply) => Known::Newer,
            _ => Known::Older,
        }
    }

    #[cfg_attr(small, optimize(speed))]
    fn refresh(&mut self, place: u32, event: &Event) {
        let flow = &mut self.flows[place as usize];
        flow.refresh(&event.entry, event.at_ns);
        flow.set_dump_parity(self.dump_parity);
        if !matches!(event.kind, Kind::Dumped(_)) {
            flow.set_ahead(false);
        }
    }

    /// Gives a flow that is not in the table its place, its share of a folded entry, or a refusal.
    #[cfg_attr(small, optimize(speed))]
    fn enter(
        &mut self,
        candidate: &Candidate<'_>,
        change: Change,
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        let event = candidate.event;
        let may_be_known = self.ownership.is_some() || self.unconfirmed_count > 0;
        let notes = match may_be_known {
            true => self.adopt(&Flow::of(event), event),
            false => Notes::default(),
        };
        if self.join_folded(event, notes.traced, counters) {
            observer.changed(change, &Flow::of(event), notes);
            return;
        }
        if !candidate.is_unknown {
            self.supersede(&Flow::of(event), observer);
        }
        if self.used_count == self.capacity {
            if !self.make_room(counters) {
                refuse(event.kind, counters);
                observer.changed(change, &Flow::of(event), notes);
                return;
            }
            // Making room may have folded the very flows that this one belongs to.
            if self.join_folded(event, notes.traced, counters) {
                observer.changed(change, &Flow::of(event), notes);
                return;
            }
        }
        let dump_parity = self.dump_parity;
        let place = self.take_place(notes, |flow| {
            flow.begin_by(event);
            flow.set_dump_parity(dump_parity);
            flow.set_indexed(true);
        });
        debug_assert_eq!(candidate.hashes, self.index.hashes(self.flow(place)));
        self.enter_slots(place, candidate.hashes);
        self.tell(change, place, observer);
    }

    /// Gives a flow that is over already its place, without the index: its key is another's by now.
    fn enter_past(&mut self, event: &Event, counters: &mut Counters, observer: &mut impl Observer) {
        let mut past = Flow::of(event);
        past.end(None);
        let notes = self.adopt(&past, event);
        observer.changed(Change::Started, &past, notes);
        if self.used_count < self.capacity || self.make_room(counters) {
            self.take_place(notes, |flow| *flow = past);
        } else {
            refuse(event.kind, counters);
        }
    }

    /// Counts the flow of an event into the folded entry that stands for it, if there is one.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn join_folded(&mut self, event: &Event, traced: Traced, counters: &mut Counters) -> bool {
        if self.folded_count == 0 {
            return false;
        }
        let Some((place, _)) = self.find(&Key::of(event, Side::Original).folded()) else {
            return false;
        };
        counters.folded += u64::from(self.flows[place as usize].absorb_event(event));
        self.fold_traced(place, traced);
        true
    }

    /// Takes the index slots from whoever has an equal key: it has ended, seen or unseen.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn supersede(&mut self, candidate: &Flow, observer: &mut impl Observer) {
        for side in candidate.sides() {
            if let Some((place, _)) = self.find(&candidate.key(*side)) {
                self.leave_index(place);
                if self.flows[place as usize].life() == Life::Live {
                    self.end(place, None);
                    self.tell(Change::Gone, place, observer);
                }
            }
        }
    }

    fn end(&mut self, place: u32, at_ns: Option<u64>) {
        let flow = &mut self.flows[place as usize];
        if flow.life() == Life::Live {
            self.ended.push_back(place);
        }
        flow.end(at_ns);
    }

    /// Gives a flow a place, in which `begin` makes it of one that is all zeroes.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn take_place(&mut self, notes: Notes, begin: impl FnOnce(&mut Flow)) -> u32 {
        self.used_count += 1;
        let place = self.free;
        let place = if place == NO_PLACE {
            debug_assert!(self.flows.len() < self.capacity as usize);
            self.flows.push(Flow::default());
            self.flows.len() as u32 - 1
        } else {
            self.free = self.flows[place as usize].next_free();
            self.flows[place as usize] = Flow::default();
            place
        };
        let flow = &mut self.flows[place as usize];
        begin(flow);
        if flow.life() != Life::Live {
            self.ended.push_back(place);
        }
        if let Some(kept) = &mut self.traced {
            kept.resize(self.flows.len(), Traced::default());
            kept[place as usize] = notes.traced;
        }
        self.note_owned(place, notes.owned);
        place
    }

    /// Gives a place back; the flow must have left the index and, if it ended, the queue.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn free_place(&mut self, place: u32) {
        let flow = &self.flows[place as usize];
        debug_assert!(flow.is_used() && !flow.is_indexed());
        self.unconfirmed_count -= u32::from(flow.life() == Life::Unconfirmed);
        self.used_count -= 1;
        self.flows[place as usize] = Flow::free(self.free);
        self.free = place;
    }

    #[cfg_attr(small, optimize(speed))]
    pub(super) fn enter_index(&mut self, place: u32) {
        let hashes = self.index.hashes(self.flow(place));
        self.flows[place as usize].set_indexed(true);
        self.enter_slots(place, hashes);
    }

    /// Enters a flow that is marked as indexed, whose keys have these hashes.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn enter_slots(&mut self, place: u32, hashes: [u64; 2]) {
        for side in self.flows[place as usize].slots(hashes) {
            self.index.insert(place, *side, hashes[*side as usize]);
        }
    }

    #[cfg_attr(small, optimize(speed))]
    pub(super) fn leave_index(&mut self, place: u32) {
        if self.flows[place as usize].is_indexed() {
            let hashes = self.index.hashes(self.flow(place));
            for side in self.flows[place as usize].slots(hashes) {
                let hash = hashes[*side as usize];
                self.index.remove(&self.flows, place, *side, hash);
            }
            self.flows[place as usize].set_indexed(false);
        }
    }
}

fn refuse(kind: Kind, counters: &mut Counters) {
    match kind {
        Kind::New | Kind::Dumped(DumpPass::Initial) => counters.refused += 1,
        _ => counters.refused_late += 1,
    }
}
