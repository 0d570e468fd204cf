//! What processes claimed and no flow was there for yet. A connection is claimed before its first
//! packet leaves, and conntrack tells of it later and over another socket; a server's end is claimed
//! when it takes the connection, which we may read before the flow.
//!
//! A ring of fixed size: the oldest claim makes room for the newest. Claims with equal ends hang
//! together, the newest first.

use super::key::{Hasher, Key};
use crate::event::{Claim, Moment};
use crate::limits::CLAIMS_KEPT;
use crate::wire::conntrack::Tuple;
use crate::wire::kernel::IPPROTO_TCP;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    claim: Claim,
    /// The next older one in the same bucket.
    older: u32,
    /// Whether it can be found: it was not used up.
    is_linked: bool,
}

/// Whether a claim is about one flow only: each connection makes its own.
pub(super) fn is_once(claim: &Claim) -> bool {
    let moment = claim.evidence.moment;
    let exists = matches!(moment, Moment::Socket | Moment::Send | Moment::Receive);
    claim.ends.proto == IPPROTO_TCP && !exists
}

/// The claims that are kept.
#[derive(Debug)]
pub(super) struct Claims {
    ring: Vec<Slot>,
    /// The place in the ring that is written next once it is full.
    next: usize,
    /// The newest claim of each bucket.
    buckets: Box<[u32]>,
    hasher: Hasher,
}

impl Claims {
    pub fn new(hasher: Hasher) -> Claims {
        Claims {
            ring: Vec::with_capacity(CLAIMS_KEPT),
            next: 0,
            buckets: vec![NONE; CLAIMS_KEPT].into_boxed_slice(),
            hasher,
        }
    }

    /// Keeps a claim. What can be claimed over and over for the same flow is only kept up to date.
    pub fn insert(&mut self, claim: &Claim) {
        let bucket = self.bucket(&claim.ends);
        if !is_once(claim) {
            let same = |kept: &Claim| {
                (kept.ends, kept.owner, kept.evidence) == (claim.ends, claim.owner, claim.evidence)
            };
            let mut at = self.buckets[bucket];
            while at != NONE {
                let slot = &mut self.ring[at as usize];
                if same(&slot.claim) {
                    slot.claim.at_ns = claim.at_ns;
                    return;
                }
                at = slot.older;
            }
        }
        let slot = Slot {
            claim: *claim,
            older: self.buckets[bucket],
            is_linked: true,
        };
        let place = if self.ring.len() < CLAIMS_KEPT {
            self.ring.push(slot);
            self.ring.len() - 1
        } else {
            let place = self.next;
            self.next = (place + 1) % CLAIMS_KEPT;
            self.unlink(place as u32);
            let older = self.buckets[bucket]; // the one that left may have stood there
            self.ring[place] = Slot { older, ..slot };
            place
        };
        self.buckets[bucket] = place as u32;
    }

    /// The claims with these ends and their places, the newest first.
    pub fn of(&self, ends: &Tuple) -> impl Iterator<Item = (u32, &Claim)> {
        let mut at = self.buckets[self.bucket(ends)];
        let slots = std::iter::from_fn(move || {
            let place = at;
            let slot = self.ring.get(place as usize)?;
            at = slot.older;
            Some((place, &slot.claim))
        });
        slots.filter(move |(_, claim)| claim.ends == *ends)
    }

    /// Forgets a claim that is there.
    pub fn remove_claim(&mut self, claim: &Claim) {
        let place = self.of(&claim.ends).find(|(_, kept)| *kept == claim);
        if let Some((place, _)) = place {
            self.remove(place);
        }
    }

    /// Forgets the claim at a place; its turn in the ring stays.
    pub fn remove(&mut self, place: u32) {
        self.unlink(place);
        self.ring[place as usize].is_linked = false;
    }

    /// The owners of all that are kept.
    pub fn owners(&self) -> impl Iterator<Item = u32> {
        let linked = self.ring.iter().filter(|slot| slot.is_linked);
        linked.map(|slot| slot.claim.owner)
    }
    fn unlink(&mut self, place: u32) {
        if !self.ring[place as usize].is_linked {
            return;
        }
        let bucket = self.bucket(&self.ring[place as usize].claim.ends);
        let older = self.ring[place as usize].older;
        if self.buckets[bucket] == place {
            self.buckets[bucket] = older;
            return;
        }
        let mut at = self.buckets[bucket];
        while at != NONE {
            let slot = &mut self.ring[at as usize];
            if slot.older == place {
                slot.older = older;
                return;
            }
            at = slot.older;
        }
    }

    fn bucket(&self, ends: &Tuple) -> usize {
        let key = Key {
            tuple: *ends,
            zone: 0,
            netns: -1,
            folded: false,
            unconfirmed: false,
        };
        self.hasher.hash(&key) as usize % self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Evidence, Rank, Source};

    fn claim(sport: u16, owner: u32, moment: Moment) -> Claim {
        Claim {
            at_ns: u64::from(owner),
            ends: Tuple {
                proto: IPPROTO_TCP,
                sport,
                dport: 80,
                ..Tuple::default()
            },
            owner,
            evidence: Evidence {
                source: Source::Probe,
                moment,
                rank: Rank::Process,
            },
        }
    }

    fn claims() -> Claims {
        Claims::new(Hasher::new([1, 2]))
    }

    fn found(claims: &Claims, sport: u16) -> Vec<u32> {
        let ends = claim(sport, 0, Moment::Connect).ends;
        claims.of(&ends).map(|(_, claim)| claim.owner).collect()
    }

    #[test]
    fn the_newest_comes_first_and_one_that_was_used_is_gone() {
        let mut claims = claims();
        for owner in 1..=3 {
            claims.insert(&claim(7, owner, Moment::Connect));
        }
        claims.insert(&claim(8, 4, Moment::Connect));
        assert_eq!(found(&claims, 7), [3, 2, 1]);
        let ends = claim(7, 0, Moment::Connect).ends;
        let place = claims.of(&ends).nth(1).unwrap().0;
        claims.remove(place);
        assert_eq!(found(&claims, 7), [3, 1]);
        assert_eq!(found(&claims, 8), [4]);
    }

    #[test]
    fn what_is_said_again_is_kept_once() {
        let mut claims = claims();
        for at_ns in 1..10 {
            claims.insert(&Claim {
                at_ns,
                ..claim(7, 1, Moment::Socket)
            });
        }
        let ends = claim(7, 0, Moment::Socket).ends;
        let kept: Vec<u64> = claims.of(&ends).map(|(_, claim)| claim.at_ns).collect();
        assert_eq!(kept, [9]);
    }

    /// Against a list in which everything is looked up the slow way.
    #[test]
    fn the_ring_forgets_the_oldest_only() {
        let mut claims = claims();
        let mut model: Vec<(u16, u32)> = Vec::new();
        let mut random = super::super::model_tests::Random(7);
        for owner in 0..3 * CLAIMS_KEPT as u32 {
            let sport = random.below(5000) as u16;
            claims.insert(&claim(sport, owner, Moment::Connect));
            model.push((sport, owner));
            if model.len() > CLAIMS_KEPT {
                model.remove(0);
            }
            if owner % 64 == 0 {
                let sport = random.below(5000) as u16;
                let newest_first = model.iter().rev().filter(|(port, _)| *port == sport);
                let expected: Vec<u32> = newest_first.map(|(_, owner)| *owner).collect();
                assert_eq!(found(&claims, sport), expected);
            }
        }
    }
}
