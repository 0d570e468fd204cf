//! The two-sided index: from either key of a flow to its place in the arena.
//!
//! Open addressing with linear probing. A slot is one word: 7 bits of the hash, so that most probes
//! of another flow need not look at the arena; 24 bits for the place plus one; the side whose hash it
//! lies under. Zero is an empty slot. Removal shifts later slots back over the hole, so there are no
//! tombstones and the index stays as good after a month as on the first day. Where both keys have one
//! hash (no NAT, and no ICMP, whose types differ by direction) the original side's slot is for both.

use super::entry::Flow;
use super::key::{Hasher, Key, Side};

#[derive(Debug)]
pub(super) struct Index {
    slots: Vec<u32>,
    hasher: Hasher,
}

impl Index {
    pub(super) fn new(slot_count: usize, hasher: Hasher) -> Index {
        Index {
            slots: vec![0; slot_count],
            hasher,
        }
    }

    /// The place and side that a key leads to, whose hash is `hash`.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn find(&self, flows: &[Flow], key: &Key, hash: u64) -> Option<(u32, Side)> {
        self.find_by(flows, hash, |flow| flow.side_of(key))
    }

    /// The place and side that lie under a hash, where that says which side of a flow it is.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn find_by(
        &self,
        flows: &[Flow],
        hash: u64,
        side_of: impl Fn(&Flow) -> Option<Side>,
    ) -> Option<(u32, Side)> {
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if tag_of(slot) == tag(hash) {
                let (place, _) = unpack(slot);
                if let Some(side) = side_of(&flows[place as usize]) {
                    return Some((place, side));
                }
            }
            at = self.after(at);
        }
    }

    /// The slot that is looked at first for a hash.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub(super) fn first_slot(&self, hash: u64) -> &u32 {
        &self.slots[self.home(hash)]
    }

    /// Enters one side of a flow, whose key has that hash. No slot may lead to an equal key.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn insert(&mut self, place: u32, side: Side, hash: u64) {
        let mut at = self.home(hash);
        while self.slots[at] != 0 {
            at = self.after(at);
        }
        self.slots[at] = pack(hash, place, side);
    }

    /// Enters all flows that are marked as indexed, and no others.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn rebuild(&mut self, flows: &[Flow]) {
        self.slots.fill(0);
        for (place, flow) in (0..).zip(flows).filter(|(_, flow)| flow.is_indexed()) {
            let hashes = self.hashes(flow);
            for side in flow.slots(hashes) {
                self.insert(place, *side, hashes[*side as usize]);
            }
        }
    }

    /// The hashes of a flow's keys, by side.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn hashes(&self, flow: &Flow) -> [u64; 2] {
        [Side::Original, Side::Reply].map(|side| self.hasher.hash(&flow.key(side)))
    }

    /// Removes one side of a flow, whose key had that hash when it was entered.
    #[cfg_attr(small, optimize(speed))]
    pub(super) fn remove(&mut self, flows: &[Flow], place: u32, side: Side, hash: u64) {
        let wanted = pack(hash, place, side);
        let mut hole = self.home(hash);
        while self.slots[hole] != wanted {
            assert!(
                self.slots[hole] != 0,
                "a flow marked as indexed has its slots"
            );
            hole = self.after(hole);
        }
        self.close(flows, hole);
    }

    /// Shifts back what was displaced over the hole, up to the next empty slot.
    #[cfg_attr(small, optimize(speed))]
    fn close(&mut self, flows: &[Flow], mut hole: usize) {
        let mut at = hole;
        loop {
            at = self.after(at);
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            let (place, side) = unpack(slot);
            let home = self.home(self.hasher.hash(&flows[place as usize].key(side)));
            if self.distance(home, at) >= self.distance(hole, at) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = 0;
    }

    /// The first slot to look at: the hash's upper half scaled to the number of slots.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() {
            0
        } else {
            at + 1
        }
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + self.slots.len() - from
        }
    }

    #[cfg(test)]
    pub(super) fn used_slots(&self) -> usize {
        self.slots.iter().filter(|slot| **slot != 0).count()
    }
}

fn tag(hash: u64) -> u32 {
    (hash & 0x7f) as u32
}

fn tag_of(slot: u32) -> u32 {
    slot >> 25
}

fn pack(hash: u64, place: u32, side: Side) -> u32 {
    tag(hash) << 25 | (place + 1) << 1 | side as u32
}

fn unpack(slot: u32) -> (u32, Side) {
    let side = if slot & 1 == 0 {
        Side::Original
    } else {
        Side::Reply
    };
    (((slot >> 1) & 0x00ff_ffff) - 1, side)
}
