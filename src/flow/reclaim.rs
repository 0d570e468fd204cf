//! Making room in a full table: finished flows go first, the oldest of them first; then client ports
//! are folded, and when neither frees a place the new flow is refused. Folding sorts the whole
//! table: it folds many flows at once, and rests when that freed little, longer each time.

use super::entry::{Flow, Life};
use super::key::Side;
use super::table::Table;
use crate::counters::Counters;
use crate::limits::RECLAIM_SHARE;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Groups at least this large are folded first; smaller ones only while that frees too little.
const FOLD_GROUP_SIZES: [usize; 3] = [64, 8, 2];

impl Table {
    /// Frees at least one place, or says that none can be freed.
    pub(super) fn make_room(&mut self, counters: &mut Counters) -> bool {
        if self.evict_ended(counters) {
            return true;
        }
        if self.rest_before_fold > 0 {
            self.rest_before_fold -= 1;
            return false;
        }
        let freed = self.fold_client_ports(counters);
        let share = (self.capacity / RECLAIM_SHARE).max(1);
        if freed < share {
            self.rest_before_fold = self.next_rest.clamp(share, self.capacity);
            self.next_rest = self.rest_before_fold.saturating_mul(2);
        } else {
            self.next_rest = share;
        }
        freed > 0
    }

    /// Removes the flow that ended first.
    fn evict_ended(&mut self, counters: &mut Counters) -> bool {
        let Some(place) = self.ended.pop_front() else {
            return false;
        };
        self.leave_index(place);
        self.free_place(place);
        counters.evicted += 1;
        true
    }

    /// Takes a place out of the queue of those that ended. It came into it lately, or is the oldest of
    /// many of its kind: it is looked for from both ends.
    pub(super) fn leave_ended(&mut self, place: u32) {
        let mut places = 0..self.ended.len();
        while let Some(first) = places.next() {
            let last = places.next_back().unwrap_or(first);
            let found = [first, last]
                .into_iter()
                .find(|at| self.ended[*at] == place);
            if let Some(at) = found {
                self.ended.remove(at);
                return;
            }
        }
    }

    /// Folds groups of flows that differ only in their client port; returns the places freed.
    fn fold_client_ports(&mut self, counters: &mut Counters) -> u32 {
        // Nothing has ended: the queue's memory is free to sort in, and nothing is allocated.
        debug_assert!(self.ended.is_empty());
        let mut places = Vec::from(std::mem::take(&mut self.ended));
        places.extend(
            (0..)
                .zip(&self.flows)
                .filter(|(_, flow)| foldable(flow))
                .map(|(place, _)| place),
        );
        let flows = &self.flows;
        places.sort_unstable_by(|a, b| flows[*a as usize].group_order(&flows[*b as usize]));
        let mut freed = 0;
        for size in FOLD_GROUP_SIZES {
            freed += self.fold_groups(&places, size, counters);
            if freed >= (self.capacity / 8).max(1) {
                break;
            }
        }
        places.clear();
        self.ended = VecDeque::from(places);
        self.index.rebuild(&self.flows);
        freed
    }

    fn fold_groups(&mut self, places: &[u32], size: usize, counters: &mut Counters) -> u32 {
        let mut freed = 0;
        let mut rest = places;
        while let Some(first) = rest.first() {
            let flow = &self.flows[*first as usize];
            if !foldable(flow) {
                rest = &rest[1..]; // folded in an earlier round
                continue;
            }
            let same = |place: &&u32| {
                let other = &self.flows[**place as usize];
                foldable(other) && flow.group_order(other) == Ordering::Equal
            };
            let len = rest.iter().take_while(same).count();
            let (group, after) = rest.split_at(len);
            if len >= size {
                freed += self.fold_group(group, counters);
            }
            rest = after;
        }
        freed
    }

    /// Turns a group into one entry: the one that is there, else its first flow. The index stays as it
    /// was: it is built anew behind the last group, which costs less than to take out one after the other.
    fn fold_group(&mut self, group: &[u32], counters: &mut Counters) -> u32 {
        let key = self.flows[group[0] as usize].key(Side::Original).folded();
        let (head, absorbed) = match self.find(&key) {
            Some((head, _)) => (head, group),
            None => {
                let in_this_dump = self.flows[group[0] as usize].dump_parity() == self.dump_parity;
                self.flows[group[0] as usize].fold(in_this_dump);
                self.forget_owned(group[0]);
                self.folded_count += 1;
                counters.folded += 1;
                (group[0], &group[1..])
            }
        };
        for place in absorbed {
            let flow = self.flows[*place as usize];
            self.flows[head as usize].absorb(&flow, flow.dump_parity() == self.dump_parity);
            self.fold_traced(head, self.traced(*place));
            self.flows[*place as usize].set_indexed(false);
            self.free_place(*place);
            counters.folded += 1;
        }
        absorbed.len() as u32
    }
}

fn foldable(flow: &Flow) -> bool {
    let tuple = flow.tuple(Side::Original);
    flow.is_used()
        && !flow.is_folded()
        && flow.life() == Life::Live
        && (tuple.has_ports() || tuple.is_icmp())
}
