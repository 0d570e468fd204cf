//! What tracing adds to the table: the path of each direction, and flows that conntrack never
//! confirmed because the firewall denied them. These lie beside the flows, and only where
//! tracing is on.
//!
//! A packet finds its flow by its tuple, and by conntrack's id where the kernel says it: the same
//! tuple with another id is another flow. A flow that nobody confirmed stands in the table as
//! unconfirmed, under a key of its own: what a trace says neither ends nor hides what conntrack
//! says. When conntrack confirms it after all, the confirmed flow takes over its path. One that was
//! denied stays, though the next attempt may pass: it is another line of the report.

use super::assembly::Packet;
use super::entry::{Flow, Life};
use super::key::{Key, Side};
use super::notes::Notes;
use super::path::{PathId, StepId};
use super::sweep::InUse;
use super::table::{Change, Observer, Table};
use crate::counters::Counters;
use crate::event::{Event, Kind};
use crate::limits::{BYTES_PER_TRACED_FLOW, TRACE_LATE};
use crate::wire::conntrack::{Entry, Tuple};

/// What is known of a flow's ways through the rules, by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// The path of each direction; 0 where none is known.
    pub paths: [PathId; 2],
    /// The step that denied a direction; 0 where none did.
    pub guilty: [StepId; 2],
    /// How many packets were denied.
    pub attempts: u32,
}

// The README says what tracing costs.
const _: () = assert!(size_of::<Traced>() <= BYTES_PER_TRACED_FLOW);

impl Traced {
    /// The step that denied the flow: the original direction's, else the reply's.
    pub fn blamed(&self) -> Option<StepId> {
        self.guilty.into_iter().find(|step| *step != 0)
    }

    /// Takes a packet of one direction. A packet that was denied says more than one that passed.
    /// Returns whether the path of that direction is another one now.
    #[cfg_attr(small, optimize(speed))]
    fn take(&mut self, packet: &Packet, side: Side) -> bool {
        let side = side as usize;
        let guilty = packet.guilty.unwrap_or(0);
        self.attempts = self.attempts.saturating_add(u32::from(guilty != 0));
        let better = self.paths[side] == 0 || (self.guilty[side] == 0 && guilty != 0);
        if better {
            (self.paths[side], self.guilty[side]) = (packet.path, guilty);
        }
        better
    }
}

impl Table {
    /// Makes room for what tracing adds.
    pub fn keep_traces(&mut self) {
        let mut traced = Vec::with_capacity(self.capacity as usize);
        traced.resize(self.flows.len(), Traced::default());
        self.traced.get_or_insert(traced);
    }

    /// What tracing knows of the flow at a place.
    #[cfg_attr(small, optimize(speed))]
    pub fn traced(&self, place: u32) -> Traced {
        let traced = self.traced.as_ref();
        let known = traced.and_then(|traced| traced.get(place as usize));
        known.copied().unwrap_or_default()
    }

    /// Marks the paths of all flows, and the steps that denied them.
    pub fn mark_ways(&self, in_use: &mut InUse) {
        for (place, _) in self.iter() {
            let traced = self.traced(place);
            traced.paths.into_iter().for_each(|path| in_use.path(path));
            traced.guilty.into_iter().for_each(|step| in_use.step(step));
        }
    }

    /// Joins a packet to its flow. One that belongs to no confirmed flow becomes an unconfirmed flow
    /// where `keep` says so.
    #[cfg_attr(small, optimize(speed))]
    pub fn apply_packet(
        &mut self,
        packet: &Packet,
        keep: impl Fn(&Entry) -> bool,
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        if self.traced.is_none() {
            return;
        }
        match self.flow_of(packet) {
            // The firewall's own answer to what it rejected.
            Owner::Flow(place, Side::Reply) if self.is_denied(place) => {}
            Owner::Flow(place, side) => {
                let is_again = self.see_unconfirmed(place, packet, side);
                let Some(traced) = self.traced_mut(place) else {
                    return;
                };
                if is_again && traced.guilty == [0, 0] {
                    traced.paths = [0, 0];
                }
                if traced.take(packet, side) {
                    self.tell(Change::Traced, place, observer);
                }
            }
            // It passed, so its own flow was one: over since, or one that lost a race to be confirmed.
            Owner::Stranger if packet.guilty.is_none() => counters.unjoined += 1,
            Owner::Stranger | Owner::Nobody => {
                let entry = Entry {
                    original: packet.tuple,
                    reply: packet.last.inverse(), // as conntrack would expect it after translation
                    id: packet.conntrack.map(|(id, _)| id),
                    ..Entry::default()
                };
                if keep(&entry) {
                    self.enter_unconfirmed(packet, &entry, counters, observer);
                } else {
                    counters.unjoined += 1;
                }
            }
        }
    }

    /// Notes a packet of a flow that only traces tell of. Says whether it is another attempt than the
    /// one before: conntrack makes a new entry for each.
    fn see_unconfirmed(&mut self, place: u32, packet: &Packet, side: Side) -> bool {
        let flow = &mut self.flows[place as usize];
        if flow.life() != Life::Unconfirmed {
            return false;
        }
        let id = packet.conntrack.map(|(id, _)| id);
        let id = id.filter(|_| side == Side::Original);
        let is_again = id.is_some() && id != flow.unconfirmed_id();
        flow.see_unconfirmed(packet.at_ns, id);
        is_again
    }

    /// A flow becomes part of a folded entry, with what was denied of it.
    pub(super) fn fold_traced(&mut self, head: u32, other: Traced) {
        if let Some(traced) = self.traced_mut(head) {
            traced.attempts = traced.attempts.saturating_add(other.attempts);
            for side in 0..2 {
                if traced.paths[side] == 0 || (traced.guilty[side] == 0 && other.guilty[side] != 0)
                {
                    traced.paths[side] = other.paths[side];
                    traced.guilty[side] = other.guilty[side];
                }
            }
        }
    }

    fn is_denied(&self, place: u32) -> bool {
        self.flow(place).life() == Life::Unconfirmed && self.traced(place).guilty[0] != 0
    }

    fn traced_mut(&mut self, place: u32) -> Option<&mut Traced> {
        self.traced.as_mut()?.get_mut(place as usize)
    }

    /// Whose packet it is. Conntrack may track its protocol without ports.
    #[cfg_attr(small, optimize(speed))]
    fn flow_of(&self, packet: &Packet) -> Owner {
        let owner = self.flow_between(packet, packet.tuple);
        match (&owner, packet.tuple.without_ports()) {
            (Owner::Nobody, Some(tuple)) => self.flow_between(packet, tuple),
            _ => owner,
        }
    }

    /// Whose packet it is, its ends being these. A trace does not say the zone: those that flows were
    /// seen in are tried.
    #[cfg_attr(small, optimize(speed))]
    fn flow_between(&self, packet: &Packet, tuple: Tuple) -> Owner {
        let key = Key {
            tuple,
            zone: 0,
            netns: -1,
            folded: false,
            unconfirmed: false,
        };
        let zones = self.zones.iter().filter(|zone| **zone != 0);
        let keys = || {
            [0].iter()
                .chain(zones.clone())
                .map(|zone| Key { zone: *zone, ..key })
        };
        let mut found = keys().filter_map(|key| self.find(&key)).peekable();
        if found.peek().is_none() {
            let inverse = key.tuple.inverse();
            let original = keys().find_map(|key| self.find(&key.folded()));
            let reply = || {
                let inverses = keys().map(|key| Key {
                    tuple: inverse,
                    ..key
                });
                inverses.map(Key::folded).find_map(|key| self.find(&key))
            };
            return match (original, self.unconfirmed_of(packet, key)) {
                (Some((place, _)), _) => Owner::Flow(place, Side::Original),
                (None, Owner::Nobody) => {
                    reply().map_or(Owner::Nobody, |(place, _)| Owner::Flow(place, Side::Reply))
                }
                (None, owner) => owner,
            };
        }
        if let Some((place, side)) = found.find(|(place, _)| self.is_of(packet, *place)) {
            return Owner::Flow(place, side);
        }
        match self.unconfirmed_of(packet, key) {
            Owner::Flow(place, side) if packet.guilty.is_some() => Owner::Flow(place, side),
            _ => Owner::Stranger,
        }
    }

    /// Whether a packet with the tuple of a confirmed flow is that flow's.
    fn is_of(&self, packet: &Packet, place: u32) -> bool {
        let flow = self.flow(place);
        // The kernel gives an id again with its memory, and the next attempt between the same ends often
        // gets both: an id tells only for as long as packets are late.
        let late_ns = match (packet.conntrack, flow.id()) {
            (Some((id, _)), Some(flow_id)) if id != flow_id => return false,
            (Some(_), Some(_)) => TRACE_LATE.as_nanos() as u64,
            _ => 0,
        };
        let end_ns = flow.last_seen_ns().saturating_add(late_ns);
        flow.life() == Life::Live || packet.at_ns <= end_ns
    }

    /// The unconfirmed flow that a packet belongs to. What another rule denied is another one; and
    /// where conntrack does not say what answers, a packet the other way that was denied too does not
    /// answer what was denied.
    fn unconfirmed_of(&self, packet: &Packet, key: Key) -> Owner {
        let key = Key {
            unconfirmed: true,
            ..key
        };
        if let Some((place, side)) = self.find(&key) {
            let same = self.traced(place).guilty[0] == packet.guilty.unwrap_or(0);
            return if same {
                Owner::Flow(place, side)
            } else {
                Owner::Nobody
            };
        }
        let inverse = Key {
            tuple: key.tuple.inverse(),
            ..key
        };
        let Some((place, _)) = self.find(&inverse) else {
            return Owner::Nobody;
        };
        let answers = match packet.conntrack {
            Some((_, reply)) => reply,
            None => packet.guilty.is_none() || !self.is_denied(place),
        };
        if answers {
            Owner::Flow(place, Side::Reply)
        } else {
            Owner::Nobody
        }
    }

    fn enter_unconfirmed(
        &mut self,
        packet: &Packet,
        entry: &Entry,
        counters: &mut Counters,
        observer: &mut impl Observer,
    ) {
        let mut flow = Flow::new(entry, -1, packet.at_ns);
        flow.set_unconfirmed();
        self.supersede(&flow, observer);
        if self.used_count == self.capacity && !self.make_room(counters) {
            counters.refused += 1;
            return;
        }
        let mut traced = Traced::default();
        traced.take(packet, Side::Original);
        let owned = self.claimed(&flow, false, true);
        let place = self.take_place(Notes { traced, owned }, |place| *place = flow);
        self.enter_index(place);
        self.unconfirmed_count += 1;
        self.tell(Change::Traced, place, observer);
    }

    /// Conntrack has confirmed this flow: an unconfirmed one with its tuple that was not denied was
    /// its beginning, and goes; what is known of it stays.
    pub(super) fn adopt(&mut self, candidate: &Flow, event: &Event) -> Notes {
        let is_new = event.kind == Kind::New;
        let claimed = self.claimed(candidate, event.is_kernel_time, is_new);
        let fresh = Notes {
            traced: Traced::default(),
            owned: claimed,
        };
        let key = Key {
            zone: 0,
            unconfirmed: true,
            ..candidate.key(Side::Original)
        };
        let Some((place, _)) = self.find(&key) else {
            return fresh;
        };
        let notes = self.notes(place);
        let id = self.flow(place).unconfirmed_id();
        if notes.traced.guilty[0] != 0
            || id.is_some_and(|id| candidate.id().is_some_and(|its| its != id))
        {
            return fresh;
        }
        self.leave_index(place);
        self.leave_ended(place);
        self.free_place(place);
        Notes {
            owned: claimed.or(notes.owned),
            ..notes
        }
    }
}

/// Whose packet it is.
enum Owner {
    /// This flow's, in this direction.
    Flow(u32, Side),
    /// Not that of the flow that has its tuple now.
    Stranger,
    /// No flow has its tuple.
    Nobody,
}
