//! What tracing adds to the table: the path of each direction, and flows that conntrack never
//! confirmed because the firewall denied them. These lie beside the flows, and only where
//! tracing is on.
//!
//! A packet finds its flow by its tuple, and by conntrack's id where the kernel says it: the same
//! tuple with another id is another flow. A flow that nobody confirmed stands in the table as
//! unconfirmed; when conntrack confirms it after all, the confirmed flow takes over its path. One
//! that was denied stays, though the next attempt may pass: it is another line of the report.

use super::assembly::Packet;
use super::entry::{Flow, Life};
use super::key::{Key, Side};
use super::path::{PathId, StepId};
use super::table::{Change, Observer, Table};
use crate::counters::Counters;
use crate::limits::BYTES_PER_TRACED_FLOW;
use crate::wire::conntrack::Entry;

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
    pub fn traced(&self, place: u32) -> Traced {
        let traced = self.traced.as_ref();
        let known = traced.and_then(|traced| traced.get(place as usize));
        known.copied().unwrap_or_default()
    }

    /// Joins a packet to its flow. One that belongs to no confirmed flow becomes an unconfirmed flow
    /// where `keep` says so.
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
            Some((place, Side::Reply)) if self.is_denied(place) => {}
            Some((place, side)) => {
                self.flows[place as usize].see_unconfirmed(packet.at_ns);
                let Some(traced) = self.traced_mut(place) else {
                    return;
                };
                if traced.take(packet, side) {
                    let traced = *traced;
                    observer.changed(Change::Traced, &self.flows[place as usize], traced);
                }
            }
            None => {
                let entry = Entry {
                    original: packet.tuple,
                    reply: packet.tuple.inverse(),
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

    /// A flow becomes part of a folded entry, with what was denied of it.
    pub(super) fn fold_traced(&mut self, head: u32, absorbed: u32) {
        let other = self.traced(absorbed);
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

    /// The flow that a packet belongs to, and its direction in it.
    fn flow_of(&self, packet: &Packet) -> Option<(u32, Side)> {
        let key = Key {
            tuple: packet.tuple,
            zone: 0,
            netns: -1,
            folded: false,
        };
        let found = self.find(&key).or_else(|| self.find_in_zones(key));
        let Some((place, side)) = found else {
            let reply = Key {
                tuple: packet.tuple.inverse(),
                ..key
            };
            let reply_of_folded = || Some((self.find(&reply.folded())?.0, Side::Reply));
            return self.find(&key.folded()).or_else(reply_of_folded);
        };
        let flow = self.flow(place);
        let belongs = match (flow.life(), packet.conntrack) {
            (Life::Unconfirmed, _) => {
                let guilty = self.traced(place).guilty[side as usize];
                side == Side::Reply || guilty == packet.guilty.unwrap_or(0)
            }
            (_, Some((id, _))) if flow.id().is_some() => flow.id() == Some(id),
            (Life::Live, _) => true,
            _ => packet.at_ns <= flow.last_seen_ns(),
        };
        belongs.then_some((place, side))
    }

    /// A trace does not say the zone: those that flows were seen in are tried.
    fn find_in_zones(&self, key: Key) -> Option<(u32, Side)> {
        let zones = self.zones.iter().filter(|zone| **zone != 0);
        zones
            .map(|zone| Key { zone: *zone, ..key })
            .find_map(|key| self.find(&key))
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
        self.inherited = traced;
        let place = self.take_place(flow);
        self.enter_index(place);
        self.unconfirmed_count += 1;
        observer.changed(Change::Traced, &self.flows[place as usize], traced);
    }

    /// Conntrack has confirmed this flow: an unconfirmed one with its tuple that was not denied was
    /// its beginning, and goes; what is known of its way stays.
    pub(super) fn adopt(&mut self, candidate: &Flow) {
        if self.unconfirmed_count == 0 {
            return;
        }
        let key = Key {
            zone: 0,
            ..candidate.key(Side::Original)
        };
        let Some((place, Side::Original)) = self.find(&key) else {
            return;
        };
        let traced = self.traced(place);
        if self.flow(place).life() != Life::Unconfirmed || traced.guilty[0] != 0 {
            return;
        }
        self.leave_index(place);
        self.ended.retain(|ended| *ended != place);
        self.free_place(place);
        self.inherited = traced;
    }
}
