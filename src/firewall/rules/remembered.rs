//! Hits that were resolved before. Most are: finding one again allocates nothing, and neither writes
//! down what it is found by.
//!
//! Open addressing with linear probing, at most half full; nothing is removed but all at once.

use super::Resolved;
use crate::flow::path::StepId;
use crate::limits::HITS_REMEMBERED;

/// What a hit is known by.
#[derive(Clone, Copy, Debug)]
pub(super) struct HitKey<'a> {
    /// Of which stream, and of what kind there: numbers of the stream's own.
    pub kind: [u8; 4],
    /// NF_* and NFT_* verdict, where the stream says it.
    pub verdict: i32,
    /// The rule's handle, or its number in the chain.
    pub number: u64,
    /// Table, chain, and the chain that is led to.
    pub names: [&'a [u8]; 3],
}

/// A hit that was resolved.
#[derive(Debug)]
struct Known {
    hash: u64,
    kind: [u8; 4],
    verdict: i32,
    number: u64,
    names: [Box<[u8]>; 3],
    resolved: Resolved,
}

impl Known {
    #[cfg_attr(small, optimize(speed))]
    fn key(&self) -> HitKey<'_> {
        HitKey {
            kind: self.kind,
            verdict: self.verdict,
            number: self.number,
            names: self.names.each_ref().map(AsRef::as_ref),
        }
    }

    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn is(&self, hash: u64, key: &HitKey<'_>) -> bool {
        self.hash == hash
            && self.number == key.number
            && self.kind == key.kind
            && self.verdict == key.verdict
            && self.names.iter().zip(key.names).all(|(a, b)| same(a, b))
    }
}

/// The hits that are remembered.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    known: Vec<Known>,
    /// Places in `known`, plus one; 0 where nothing is. As many as a power of two, or none.
    slots: Vec<u32>,
}

impl Remembered {
    /// What this hit was resolved to.
    #[cfg_attr(small, optimize(speed))]
    pub fn find(&self, key: &HitKey<'_>) -> Option<Resolved> {
        let hash = hash(key);
        let mut at = self.home(hash)?;
        loop {
            let place = (self.slots[at] as usize).checked_sub(1)?;
            let known = &self.known[place];
            if known.is(hash, key) {
                return Some(known.resolved);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Remembers a hit that is not found; not beyond HITS_REMEMBERED.
    pub fn insert(&mut self, key: &HitKey<'_>, resolved: Resolved) {
        if self.known.len() >= HITS_REMEMBERED {
            return;
        }
        self.known.push(Known {
            hash: hash(key),
            kind: key.kind,
            verdict: key.verdict,
            number: key.number,
            names: key.names.map(Box::from),
            resolved,
        });
        if 2 * self.known.len() > self.slots.len() {
            self.enter_all();
        } else {
            self.enter(self.known.len() - 1);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.known.clear();
        self.slots.fill(0);
    }

    /// Forgets the hits whose step is not kept.
    pub fn retain(&mut self, keep: impl Fn(StepId) -> bool) {
        self.known
            .retain(|known| known.resolved.step.is_none_or(&keep));
        self.enter_all();
    }

    /// Each hit, and what it was resolved to.
    pub fn iter(&self) -> impl Iterator<Item = (HitKey<'_>, Resolved)> {
        self.known.iter().map(|known| (known.key(), known.resolved))
    }

    fn enter_all(&mut self) {
        const SLOTS_MIN: usize = 64;
        let wanted = (2 * self.known.len()).next_power_of_two();
        let count = wanted.max(SLOTS_MIN).max(self.slots.len());
        self.slots.clear();
        self.slots.resize(count, 0);
        (0..self.known.len()).for_each(|place| self.enter(place));
    }

    fn enter(&mut self, place: usize) {
        let Some(mut at) = self.home(self.known[place].hash) else {
            return;
        };
        while self.slots[at] != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = place as u32 + 1;
    }

    /// The first slot to look at.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    fn home(&self, hash: u64) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        Some((hash >> 32) as usize & mask)
    }
}

/// Whoever sends packets chooses none of this; who makes rules may make them as slow as he likes.
#[cfg_attr(small, optimize(speed))]
fn hash(key: &HitKey<'_>) -> u64 {
    let kind = u64::from(u32::from_ne_bytes(key.kind));
    let verdict = u64::from(u32::from_ne_bytes(key.verdict.to_ne_bytes()));
    let state = fold(key.number ^ SEED, kind << 32 | verdict);
    key.names.iter().fold(state, |mut state, name| {
        let mut rest = *name;
        while let Some((word, behind)) = rest.split_first_chunk::<8>() {
            state = fold(state, u64::from_ne_bytes(*word));
            rest = behind;
        }
        let tail = rest
            .iter()
            .fold(name.len() as u64, |tail, byte| tail << 8 | u64::from(*byte));
        fold(state, tail)
    })
}

const SEED: u64 = 0x243f_6a88_85a3_08d3; // digits of pi

#[cfg_attr(small, optimize(speed))]
#[inline]
fn fold(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word) * 0x9e37_79b9_7f4a_7c15;
    (product as u64) ^ ((product >> 64) as u64)
}

/// Names are short: some C libraries compare them byte by byte.
#[cfg_attr(small, optimize(speed))]
#[inline]
fn same(mut a: &[u8], mut b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    while let (Some((first, a_behind)), Some((second, b_behind))) =
        (a.split_first_chunk::<8>(), b.split_first_chunk::<8>())
    {
        if u64::from_ne_bytes(*first) != u64::from_ne_bytes(*second) {
            return false;
        }
        (a, b) = (a_behind, b_behind);
    }
    a.iter().zip(b).all(|(first, second)| first == second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn resolved(step: StepId) -> Resolved {
        Resolved {
            own: false,
            step: Some(step),
            station: None,
            denies: false,
            known: true,
        }
    }

    /// Names that share words, and beginnings, and differ in their last byte.
    fn name(number: u64) -> Vec<u8> {
        let len = (number % 27) as usize;
        let mut name = vec![b'x'; len];
        if let Some(last) = name.last_mut() {
            *last = b'a' + (number % 3) as u8;
        }
        name
    }

    #[test]
    fn each_is_found_under_all_that_it_is_known_by_and_no_other() {
        let mut remembered = Remembered::default();
        let mut model = HashMap::new();
        for number in (0..5000u64).map(|number| number % 3000) {
            let names = [name(number / 7), name(number / 11), name(number / 13)];
            let kind = [b'N', (number % 2) as u8, (number % 3) as u8, 0];
            let (verdict, handle) = (-((number % 5) as i32), number / 17);
            let key = HitKey {
                kind,
                verdict,
                number: handle,
                names: names.each_ref().map(|name| &name[..]),
            };
            let found = remembered.find(&key).and_then(|found| found.step);
            let owned = (kind, verdict, handle, names.clone());
            assert_eq!(found, model.get(&owned).copied());
            if found.is_none() {
                let step = number as StepId + 1;
                remembered.insert(&key, resolved(step));
                model.insert(owned, step);
            }
        }
        assert_eq!(model.len(), 3000); // the others were found
        assert_eq!(remembered.iter().count(), model.len());
        remembered.retain(|step| step % 2 == 0);
        for ((kind, verdict, number, names), step) in &model {
            let key = HitKey {
                kind: *kind,
                verdict: *verdict,
                number: *number,
                names: names.each_ref().map(|name| &name[..]),
            };
            let found = remembered.find(&key).and_then(|found| found.step);
            assert_eq!(found, Some(*step).filter(|step| step % 2 == 0));
        }
        remembered.clear();
        assert_eq!(remembered.iter().count(), 0);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut remembered = Remembered::default();
        let key = |number: usize| HitKey {
            kind: *b"N000",
            verdict: 0,
            number: number as u64,
            names: [b"t", b"c", b""],
        };
        for number in 0..=HITS_REMEMBERED {
            remembered.insert(&key(number), resolved(1));
        }
        assert_eq!(remembered.find(&key(HITS_REMEMBERED)), None);
        assert!(remembered.find(&key(HITS_REMEMBERED - 1)).is_some());
    }
}
