//! What a flow is found by: a tuple, the zone that holds for its direction, and the namespace.

use crate::event::Event;
use crate::wire::conntrack::Tuple;

/// Which tuple of a flow: as sent, or as answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The direction of the first packet.
    Original,
    /// The direction of the answer.
    Reply,
}

/// The key of one side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Addresses, protocol, ports.
    pub tuple: Tuple,
    /// Zone of this direction.
    pub zone: u16,
    /// Namespace id; -1 for our own.
    pub netns: i32,
    /// Whether this stands for all client ports (whose field is then zero).
    pub folded: bool,
    /// Whether this is a flow that only a trace has told of: it may stand beside one of conntrack's.
    pub unconfirmed: bool,
}

impl Key {
    /// The key of a side of the flow that an event is about. A flow has one family and one protocol,
    /// whatever is said of its reply.
    #[cfg_attr(small, optimize(speed))]
    #[inline(always)]
    pub fn of(event: &Event, side: Side) -> Key {
        let entry = &event.entry;
        let (original_zone, reply_zone) = entry.zone.by_direction();
        let (tuple, zone) = match side {
            Side::Original => (&entry.original, original_zone),
            Side::Reply => (&entry.reply, reply_zone),
        };
        Key {
            tuple: Tuple {
                ipv6: entry.original.ipv6,
                proto: entry.original.proto,
                ..*tuple
            },
            zone,
            netns: event.netns.unwrap_or(-1),
            folded: false,
            unconfirmed: false,
        }
    }

    /// The key under which flows that differ only in their client port are folded.
    #[cfg_attr(small, optimize(speed))]
    pub fn folded(mut self) -> Key {
        self.tuple.sport = 0;
        self.folded = true;
        self
    }
}

/// A keyed hash: whoever sends the packets cannot choose which flows collide.
#[derive(Clone, Copy, Debug)]
pub struct Hasher {
    seed: [u64; 2],
}

impl Hasher {
    /// `seed` should come from the kernel's random numbers.
    pub fn new(seed: [u64; 2]) -> Self {
        // Odd constants (digits of pi) keep a zero seed from cancelling out.
        Hasher {
            seed: [
                seed[0] ^ 0x243f_6a88_85a3_08d3,
                seed[1] ^ 0x1319_8a2e_0370_7345,
            ],
        }
    }

    /// Mixes the whole key into 64 bits: folded multiplication of two words at a time.
    ///
    /// The two ends count without their order, so that a key and the one of the packets the other way
    /// have one hash, and a flow of ports that nobody rewrites has one slot in the index. Of each of
    /// the three pairs (ports, halves of the addresses) the order is lost by itself: up to four pairs of
    /// ends have one hash, whatever the sender does.
    #[cfg_attr(small, optimize(speed))]
    #[inline]
    pub fn hash(&self, key: &Key) -> u64 {
        let tuple = &key.tuple;
        let (src_low, src_high) = words(&tuple.src);
        let (dst_low, dst_high) = words(&tuple.dst);
        let l4 = u64::from(tuple.sport.min(tuple.dport))
            | u64::from(tuple.sport.max(tuple.dport)) << 16
            | u64::from(tuple.proto) << 32
            | u64::from(tuple.ipv6) << 40
            | u64::from(key.folded) << 41
            | u64::from(key.unconfirmed) << 42
            | u64::from(key.zone) << 48;
        let netns = u64::from(u32::from_ne_bytes(key.netns.to_ne_bytes()));
        let mut state = fold(src_low ^ self.seed[0], dst_low ^ self.seed[0]);
        if tuple.ipv6 {
            let seed = self.seed[1] ^ state;
            state = fold(src_high ^ seed, dst_high ^ seed);
        }
        fold(
            l4 ^ state ^ self.seed[0],
            netns ^ self.seed[1] ^ state.rotate_left(32),
        )
    }
}

#[cfg_attr(small, optimize(speed))]
fn words(address: &[u8; 16]) -> (u64, u64) {
    let value = u128::from_ne_bytes(*address);
    (value as u64, (value >> 64) as u64)
}

#[cfg_attr(small, optimize(speed))]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(host: u16, sport: u16) -> Key {
        let mut tuple = Tuple {
            proto: 17,
            sport,
            dport: 53,
            ..Tuple::default()
        };
        tuple.src[..4].copy_from_slice(&[10, 0, host.to_be_bytes()[0], host.to_be_bytes()[1]]);
        tuple.dst[..4].copy_from_slice(&[10, 1, 0, 1]);
        Key {
            tuple,
            zone: 0,
            netns: -1,
            folded: false,
            unconfirmed: false,
        }
    }

    #[test]
    fn neighbours_spread_over_all_buckets() {
        let hasher = Hasher::new([1, 2]);
        let mut buckets = [0u32; 256];
        for host in 0..256 {
            for sport in 0..256 {
                buckets[(hasher.hash(&key(host, sport)) >> 56) as usize] += 1;
            }
        }
        // 65,536 keys in 256 buckets: 256 each, standard deviation 16.
        assert!(
            buckets.iter().all(|n| (170..350).contains(n)),
            "{buckets:?}"
        );
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let hasher = Hasher::new([3, 4]);
        let base = key(1, 1);
        let mut variants = vec![
            base,
            base.folded(),
            Key {
                unconfirmed: true,
                ..base
            },
            Key { zone: 1, ..base },
            Key { netns: 7, ..base },
        ];
        for change in 0..7 {
            let mut tuple = base.tuple;
            match change {
                0 => tuple.src[3] ^= 1,
                1 => tuple.dst[0] ^= 1,
                2 => tuple.dport ^= 1,
                3 => tuple.proto ^= 1,
                4 => tuple.sport ^= 2,
                5 => (tuple.ipv6, tuple.src[15]) = (true, 1),
                _ => tuple.ipv6 = true,
            }
            variants.push(Key { tuple, ..base });
        }
        let mut hashes: Vec<u64> = variants.iter().map(|key| hasher.hash(key)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), variants.len());
    }

    #[test]
    fn the_way_back_has_the_same_hash() {
        let hasher = Hasher::new([5, 6]);
        for ipv6 in [false, true] {
            let mut there = key(77, 1077);
            there.tuple.ipv6 = ipv6;
            if ipv6 {
                (there.tuple.src[9], there.tuple.dst[14]) = (3, 4);
            }
            let back = Key {
                tuple: there.tuple.inverse(),
                ..there
            };
            assert_ne!(there, back);
            assert_eq!(hasher.hash(&there), hasher.hash(&back), "ipv6: {ipv6}");
        }
    }

    #[test]
    fn another_seed_is_another_order() {
        assert_ne!(
            Hasher::new([1, 2]).hash(&key(1, 1)),
            Hasher::new([1, 3]).hash(&key(1, 1))
        );
    }
}
