//! Which of the packets under way have something in common: their slots in chains by a hash of it, so
//! that a hit is compared with a few of them and not with all. Without an allocation, once made.

use crate::limits::OPEN_PACKETS;

/// Twice as many chains as slots: most have one, or none.
const CHAINS: usize = (2 * OPEN_PACKETS).next_power_of_two();
/// The end of a chain.
const NONE: u16 = u16::MAX;

const _: () = assert!(OPEN_PACKETS < NONE as usize, "a slot's number is no end");

/// Chains of slots.
#[derive(Debug)]
pub(super) struct Chains {
    heads: Box<[u16]>,
    /// The last slot of each chain that has one.
    tails: Box<[u16]>,
    /// The slot behind each, in its chain.
    after: Box<[u16]>,
}

impl Chains {
    /// Empty ones.
    pub fn new() -> Chains {
        Chains {
            heads: vec![NONE; CHAINS].into_boxed_slice(),
            tails: vec![NONE; CHAINS].into_boxed_slice(),
            after: vec![NONE; OPEN_PACKETS].into_boxed_slice(),
        }
    }

    /// The slots that were entered with this key, the first of them first; and some of other keys.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn of(&self, key: u64) -> impl Iterator<Item = usize> {
        std::iter::successors(self.first(key), |slot| self.next(*slot))
    }

    /// The first of them.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn first(&self, key: u64) -> Option<usize> {
        slot(self.heads[chain(key)])
    }

    /// The one behind a slot, in its chain.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn next(&self, before: usize) -> Option<usize> {
        slot(self.after[before])
    }

    /// Enters a slot that is not in a chain.
    #[cfg_attr(small, optimize(speed))]
    pub fn enter(&mut self, key: u64, slot: usize) {
        let chain = chain(key);
        let last = std::mem::replace(&mut self.tails[chain], slot as u16);
        match self.after.get_mut(usize::from(last)) {
            Some(end) => *end = slot as u16,
            None => self.heads[chain] = slot as u16,
        }
        self.after[slot] = NONE;
    }

    /// Takes a slot out that was entered with this key.
    #[cfg_attr(small, optimize(speed))]
    pub fn leave(&mut self, key: u64, slot: usize) {
        let before = self.of(key).take_while(|other| *other != slot).last();
        let after = self.after[slot];
        let link = match before {
            Some(before) => &mut self.after[before],
            None => &mut self.heads[chain(key)],
        };
        assert!(
            usize::from(*link) == slot,
            "a slot leaves the chain that it is in"
        );
        *link = after;
        if after == NONE {
            self.tails[chain(key)] = before.map_or(NONE, |before| before as u16);
        }
    }
}

#[cfg_attr(small, optimize(speed))]
#[inline]
fn slot(link: u16) -> Option<usize> {
    (link != NONE).then_some(usize::from(link))
}

/// The upper bits of a product are mixed best.
#[cfg_attr(small, optimize(speed))]
#[inline]
fn chain(key: u64) -> usize {
    const SHIFT: u32 = u64::BITS - CHAINS.trailing_zeros();
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> SHIFT) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_key_come_in_the_order_they_were_entered() {
        let mut chains = Chains::new();
        let of = |chains: &Chains| chains.of(7).collect::<Vec<_>>();
        for slot in [3, 1, 2] {
            chains.enter(7, slot);
        }
        assert_eq!(of(&chains), [3, 1, 2]);
        chains.leave(7, 1);
        assert_eq!(of(&chains), [3, 2]);
        chains.enter(7, 1);
        chains.leave(7, 3);
        assert_eq!(of(&chains), [2, 1]);
        chains.leave(7, 1); // the last one
        chains.enter(7, 3);
        assert_eq!(of(&chains), [2, 3]);
        chains.leave(7, 2);
        chains.leave(7, 3); // the only one
        assert_eq!(of(&chains), []);
        chains.enter(7, 2);
        assert_eq!(of(&chains), [2]);
    }

    #[test]
    fn many_keys_share_few_chains() {
        let mut chains = Chains::new();
        for slot in 0..OPEN_PACKETS {
            chains.enter(slot as u64, slot);
        }
        let lens = (0..OPEN_PACKETS as u64).map(|key| chains.of(key).count());
        assert!(lens.max() < Some(8));
        for slot in 0..OPEN_PACKETS {
            assert!(chains.of(slot as u64).any(|other| other == slot));
            chains.leave(slot as u64, slot);
            assert!(!chains.of(slot as u64).any(|other| other == slot));
        }
    }
}
