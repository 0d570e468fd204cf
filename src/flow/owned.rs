//! What `-b` adds to the table: the process at each end of a flow that is on this machine.
//!
//! Theory of operation. Probes claim: this process uses a socket with these ends, at this moment. A
//! socket's ends, as its process sends, are the flow's original tuple where the process began it, and
//! the reply tuple where it answers; a probe that sees packets behind a translation sees the inverse of
//! the other one. So the index that holds both tuples finds the flow of a claim, and which end it is.
//!
//! Claims and flows come over different sockets, so each may be ahead. A claim that finds its flow is
//! used; else it waits (claims.rs), and a flow that enters the table looks for the claims with its
//! tuples. What begins a flow (connect, send) was claimed before it began; what answers (accept,
//! receive, a packet) after. Equal ends come again with another process, so the moment of a claim must
//! lie in the flow's life, and a claim that belongs to one connection only is used once. A claim that
//! comes late in a flow's life may be about the next flow, whose beginning waits unread: it waits until
//! all events are read.
//!
//! Some probes do not see everything: a datagram's sender without its address, a receiver without the
//! other end. Such a claim counts for a flow only where that end's address is this machine's, and
//! where no other process claims the same: better no process than a wrong one.

use super::claims::{Claims, is_once};
use super::entry::{Flow, Life};
use super::fit::{Span, Timing, begins, fits, has_more_than_addresses, is_answer, portless, vague};
use super::key::{Key, Side};
use super::owner::OwnerId;
use super::table::{Change, Observer, Table};
use crate::event::{Claim, Evidence, Rank};
use crate::limits::{BYTES_PER_OWNED_FLOW, CLOCK_STEP, WANTED_MAX};
use crate::wire::conntrack::Tuple;
use std::collections::VecDeque;

/// The processes at the ends of a flow, by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// The owner of the end that sends in this direction; 0 where none is known.
    pub owners: [OwnerId; 2],
    /// How that is known.
    pub evidence: [Option<Evidence>; 2],
    /// Which ends are on this machine.
    is_here: [bool; 2],
    /// Whether the flow's time is the kernel's own.
    is_kernel_time: bool,
    /// Whether it was there before it was heard of, nobody knows since when.
    is_older: bool,
}

// The README says what attribution costs.
const _: () = assert!(size_of::<Owned>() <= BYTES_PER_OWNED_FLOW);

impl Owned {
    /// The owner that one direction's line shows, 0 for none: that of the end which sends, and where
    /// that is not on this machine, of the other.
    #[cfg_attr(small, optimize(speed))]
    pub fn of_line(&self, side: Side) -> OwnerId {
        let own = self.owners[side as usize];
        if own == 0 && !self.is_here[side as usize] {
            self.owners[other(side) as usize]
        } else {
            own
        }
    }

    /// How well it is known when the flow began.
    fn timing(&self) -> Timing {
        Timing {
            is_kernel_time: self.is_kernel_time,
            is_older: self.is_older,
        }
    }

    /// What is known here, and there where nothing is.
    pub(super) fn or(mut self, there: Owned) -> Owned {
        for side in 0..2 {
            if self.owners[side] == 0 {
                self.owners[side] = there.owners[side];
                self.evidence[side] = there.evidence[side];
            }
        }
        self
    }

    fn rank(&self, side: Side) -> Option<Rank> {
        self.evidence[side as usize].map(|evidence| evidence.rank)
    }

    /// Takes a claim for one side, if it is surer than what is known. Says whether it was.
    fn take(&mut self, side: Side, claim: &Claim) -> bool {
        let is_surer = Some(claim.evidence.rank) > self.rank(side);
        if is_surer {
            self.owners[side as usize] = claim.owner;
            self.evidence[side as usize] = Some(claim.evidence);
        }
        is_surer
    }
}

/// What the table keeps for attribution.
#[derive(Debug)]
pub(super) struct Ownership {
    pub owned: Vec<Owned>,
    claims: Claims,
    /// Addresses of this machine, sorted.
    local: Vec<(bool, [u8; 16])>,
    /// Claims that came late in a flow's life: they wait until all events are read.
    late: VecDeque<Claim>,
    /// Flows whose process is not known yet: place, when they were first seen.
    wanted: VecDeque<(u32, u64)>,
    /// Flows that found no room there.
    unasked: u64,
}

impl Ownership {
    fn is_local(&self, tuple: &Tuple) -> bool {
        let is_loopback = !tuple.ipv6 && tuple.src[0] == 127;
        is_loopback || self.local.binary_search(&(tuple.ipv6, tuple.src)).is_ok()
    }
}

impl Table {
    /// Makes room for what attribution adds.
    pub fn keep_owners(&mut self) {
        if self.ownership.is_some() {
            return;
        }
        let mut owned = Vec::with_capacity(self.capacity as usize);
        owned.resize(self.flows.len(), Owned::default());
        self.ownership = Some(Ownership {
            owned,
            claims: Claims::new(self.hasher),
            local: Vec::new(),
            late: VecDeque::with_capacity(WANTED_MAX),
            wanted: VecDeque::with_capacity(WANTED_MAX),
            unasked: 0,
        });
    }

    /// Sets the addresses of this machine.
    pub fn set_local(&mut self, mut addresses: Vec<(bool, [u8; 16])>) {
        addresses.sort_unstable();
        if let Some(ownership) = &mut self.ownership {
            ownership.local = addresses;
        }
    }

    /// The processes at the ends of the flow at a place.
    pub fn owned(&self, place: u32) -> Owned {
        let ownership = self.ownership.as_ref();
        let known = ownership.and_then(|ownership| ownership.owned.get(place as usize));
        known.copied().unwrap_or_default()
    }

    /// Whether an end of a flow is a process's of this machine: the end that sends in this direction.
    pub fn is_process_end(&self, place: u32, side: Side) -> bool {
        let Some(ownership) = &self.ownership else {
            return false;
        };
        let flow = self.flow(place);
        let by_kernel = flow.is_icmp() && side == Side::Reply;
        let answered = side == Side::Original || flow.seen_reply();
        flow.netns().is_none() && !by_kernel && answered && ownership.is_local(&flow.tuple(side))
    }

    /// Takes a claim: for the flow that is there, or to wait for the one that comes.
    pub fn apply_claim(&mut self, claim: &Claim, observer: &mut impl Observer) {
        if !is_answer(claim) && self.use_claim(claim, false, observer) {
            return;
        }
        let Some(ownership) = &mut self.ownership else {
            return;
        };
        let waits = is_once(claim) && !begins(claim) || is_answer(claim);
        if waits && ownership.late.len() < WANTED_MAX {
            ownership.late.push_back(*claim);
        }
        if !is_answer(claim) {
            ownership.claims.insert(claim);
        }
    }

    /// Gives a claim to the flow that is there, if it is about that one. Says whether it is used up.
    fn use_claim(&mut self, claim: &Claim, all_read: bool, observer: &mut impl Observer) -> bool {
        let Some((place, side)) = self.flow_of_claim(&claim.ends) else {
            return false;
        };
        let Some(ownership) = &mut self.ownership else {
            return false;
        };
        let owned = &mut ownership.owned[place as usize];
        if !fits(
            claim,
            &Span::of(&self.flows[place as usize], owned.timing(), all_read),
        ) {
            return false;
        }
        if begins(claim) && !owned.is_kernel_time && owned.rank(side) == Some(Rank::Process) {
            return false; // the flow that it begins is not read yet
        }
        let is_new = owned.take(side, claim);
        // Another process at this end is the next flow's, which is not read yet.
        let is_used = is_once(claim) && owned.owners[side as usize] == claim.owner;
        if is_new {
            self.tell(Change::Owned, place, observer);
        }
        is_used
    }

    /// The flow that a socket with these ends is an end of, and which.
    fn flow_of_claim(&self, ends: &Tuple) -> Option<(u32, Side)> {
        let as_sent = |tuple: Tuple, unconfirmed: bool| {
            let zones = [0].into_iter().chain(self.zones);
            let keys = zones.map(move |zone| Key {
                tuple,
                zone,
                netns: -1,
                folded: false,
                unconfirmed,
            });
            keys.into_iter().find_map(|key| self.find(&key))
        };
        let found = [false, true].into_iter().find_map(|unconfirmed| {
            let turned = || as_sent(ends.inverse(), unconfirmed);
            as_sent(*ends, unconfirmed)
                .or_else(|| turned().map(|(place, side)| (place, other(side))))
        });
        found.filter(|(place, _)| !self.flow(*place).is_folded())
    }

    /// What the claims that wait say of a flow that enters the table.
    pub(super) fn claimed(&mut self, flow: &Flow, is_kernel_time: bool, is_new: bool) -> Owned {
        let mut owned = Owned {
            is_kernel_time,
            is_older: !is_new && flow.start_ns().is_none(),
            ..Owned::default()
        };
        if let Some(ownership) = &mut self.ownership {
            if flow.netns().is_none() && !flow.is_folded() {
                ownership.look(flow, &mut owned, false);
            }
        }
        owned
    }

    /// A flow got its place: its process is wanted where an end is here and nobody has claimed it.
    pub(super) fn note_owned(&mut self, place: u32, owned: Owned) {
        let Some(ownership) = &mut self.ownership else {
            return;
        };
        ownership.owned.resize(self.flows.len(), Owned::default());
        ownership.owned[place as usize] = owned;
        let flow = &self.flows[place as usize];
        let sides = [Side::Original, Side::Reply];
        let is_here = sides.map(|side| ownership.is_local(&flow.tuple(side)));
        ownership.owned[place as usize].is_here = is_here;
        let is_wanted = sides
            .into_iter()
            .any(|side| owned.rank(side) < Some(Rank::Inherited) && is_here[side as usize]);
        if is_wanted && flow.netns().is_none() && !flow.is_folded() {
            if ownership.wanted.len() < WANTED_MAX {
                ownership.wanted.push_back((place, flow.first_seen_ns()));
            } else {
                ownership.unasked += 1;
            }
        }
    }

    /// Something was lost of what processes claim: what waits may be another's by now.
    pub fn forget_claims(&mut self) {
        if let Some(ownership) = &mut self.ownership {
            ownership.claims = Claims::new(self.hasher);
        }
    }

    /// Whether there are flows whose process nobody named yet.
    pub fn wants_owners(&self) -> bool {
        let ownership = self.ownership.as_ref();
        ownership.is_some_and(|own| !own.wanted.is_empty() || !own.late.is_empty())
    }

    /// A flow becomes an entry that stands for many, of as many processes.
    pub(super) fn forget_owned(&mut self, place: u32) {
        if let Some(ownership) = &mut self.ownership {
            ownership.owned[place as usize] = Owned::default();
        }
    }

    /// Looks once more for the processes of flows that were first seen before then, when all events are
    /// read; `ask` is told the ends that nobody has claimed.
    pub fn settle_wanted(
        &mut self,
        before_ns: u64,
        observer: &mut impl Observer,
        ask: &mut dyn FnMut(&Tuple),
    ) {
        self.settle_late(observer);
        loop {
            let Some(ownership) = &mut self.ownership else {
                return;
            };
            // One that seems to begin later than now would let nobody behind it pass.
            let later_ns = before_ns.saturating_add(CLOCK_STEP.as_nanos() as u64);
            let due = |(_, first_ns): &(u32, u64)| *first_ns <= before_ns || *first_ns >= later_ns;
            let Some((place, first_ns)) = ownership.wanted.front().copied().filter(due) else {
                return;
            };
            ownership.wanted.pop_front();
            let flow = self.flow(place);
            if flow.is_used() && !flow.is_folded() && flow.first_seen_ns() == first_ns {
                self.settle(place, Rank::Inherited, observer, ask);
            }
        }
    }

    /// Gives the claims that came late to the flows that are there.
    fn settle_late(&mut self, observer: &mut impl Observer) {
        let late = self.ownership.as_mut().and_then(|own| own.late.pop_front());
        let mut next = late;
        while let Some(claim) = next {
            let is_used = self.use_claim(&claim, true, observer);
            let Some(ownership) = &mut self.ownership else {
                return;
            };
            if is_used {
                ownership.claims.remove_claim(&claim);
            }
            next = ownership.late.pop_front();
        }
    }

    /// The same for every flow, at the end of a capture: of those that live, `ask` is also told the ends
    /// whose process is one of several.
    pub fn settle_all(&mut self, observer: &mut impl Observer, ask: &mut dyn FnMut(&Tuple)) {
        self.settle_late(observer);
        for place in 0..self.flows.len() as u32 {
            let flow = self.flow(place);
            if flow.is_used() && !flow.is_folded() && flow.netns().is_none() {
                self.settle(place, Rank::Process, observer, ask);
            }
        }
    }

    fn settle(
        &mut self,
        place: u32,
        wanted: Rank,
        observer: &mut impl Observer,
        ask: &mut dyn FnMut(&Tuple),
    ) {
        let Some(ownership) = &mut self.ownership else {
            return;
        };
        let flow = self.flows[place as usize];
        let before = ownership.owned[place as usize];
        let mut owned = before;
        ownership.look(&flow, &mut owned, true);
        ownership.owned[place as usize] = owned;
        if owned != before {
            self.tell(Change::Owned, place, observer);
        }
        for side in [Side::Original, Side::Reply] {
            let is_over = !matches!(flow.life(), Life::Live | Life::Unconfirmed);
            let known = owned.rank(side) >= Some(wanted);
            if !known && !is_over && self.is_process_end(place, side) {
                ask(&flow.tuple(side));
            }
        }
    }

    /// Flows whose process was not asked for, for want of room.
    pub fn unasked(&self) -> u64 {
        let ownership = self.ownership.as_ref();
        ownership.map_or(0, |ownership| ownership.unasked)
    }

    /// Calls `mark` with the number of every owner that the table or a claim holds.
    pub fn owners_in_use(&self, mark: &mut dyn FnMut(OwnerId)) {
        let Some(ownership) = &self.ownership else {
            return;
        };
        for (_, place) in self.iter().map(|(place, flow)| (flow, place)) {
            self.owned(place).owners.into_iter().for_each(&mut *mark);
        }
        let late = ownership.late.iter().map(|claim| claim.owner);
        ownership.claims.owners().chain(late).for_each(mark);
    }
}

impl Ownership {
    /// Takes what the claims say of a flow's ends; `all_read` is whether all events were read.
    fn look(&mut self, flow: &Flow, owned: &mut Owned, all_read: bool) {
        let span = Span::of(flow, owned.timing(), all_read);
        for side in [Side::Original, Side::Reply] {
            let ends = flow.tuple(side);
            let turned = flow.tuple(other(side)).inverse();
            let exact = [ends, turned];
            let exact = if ends == turned { &exact[..1] } else { &exact };
            for ends in exact {
                if owned.rank(side) < Some(Rank::Process) {
                    self.use_exact(ends, side, &span, owned);
                }
            }
            let by_kernel = side == Side::Reply && flow.is_icmp();
            if owned.rank(side).is_none() && self.is_local(&ends) && !by_kernel {
                let mut claim = vague(&ends)
                    .into_iter()
                    .find_map(|ends| self.undisputed(&[ends], &span));
                if claim.is_none() && side == Side::Original && has_more_than_addresses(&ends) {
                    claim = self.undisputed(&portless(&ends), &span);
                }
                if let Some(claim) = claim {
                    owned.take(side, &claim);
                }
            }
        }
    }

    /// Takes the best claim with exactly these ends; one that is for one flow only is used up.
    fn use_exact(&mut self, ends: &Tuple, side: Side, span: &Span, owned: &mut Owned) {
        let mut best: Option<(u32, Claim)> = None;
        for (place, claim) in self.claims.of(ends) {
            let is_best = best.is_none_or(|(_, than)| span.prefers(claim, &than));
            if fits(claim, span) && is_best {
                best = Some((place, *claim));
            }
        }
        if let Some((place, claim)) = best {
            owned.take(side, &claim);
            if is_once(&claim) {
                self.claims.remove(place);
            }
        }
    }

    /// A claim that fits and has one of these ends, unless another process claims the same.
    fn undisputed(&self, ends: &[Tuple], span: &Span) -> Option<Claim> {
        let all = ends.iter().flat_map(|ends| self.claims.of(ends));
        let mut fitting = all.filter(|(_, claim)| fits(claim, span));
        let (_, newest) = fitting.next()?;
        let is_disputed = fitting.any(|(_, claim)| claim.owner != newest.owner);
        Some(*newest).filter(|_| !is_disputed)
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Original => Side::Reply,
        Side::Reply => Side::Original,
    }
}
