//! Hash maps of the library, with its keyed hash, that is there once: the library's own way puts it into
//! each function that looks something up, half a kilobyte each time.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// A map by hash.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Keyed>;
/// A set by hash.
pub type HashSet<K> = std::collections::HashSet<K, Keyed>;

/// Hashes with keys that nobody outside knows.
#[derive(Clone, Debug, Default)]
pub struct Keyed(RandomState);

/// A hash as it grows.
#[derive(Clone, Debug)]
pub struct Growing(DefaultHasher);

impl BuildHasher for Keyed {
    type Hasher = Growing;

    #[inline(never)]
    fn build_hasher(&self) -> Growing {
        Growing(self.0.build_hasher())
    }
}

impl Hasher for Growing {
    #[inline(never)]
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    #[inline(never)]
    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_meet_and_keys_differ_by_map() {
        let [one, other] = [Keyed::default(), Keyed::default()];
        assert_eq!(one.hash_one("a"), one.hash_one(String::from("a")));
        assert_ne!(one.hash_one("a"), one.hash_one("b"));
        assert_ne!(one.hash_one("a"), other.hash_one("a"));
        let map: HashMap<u32, u32> = (0..1000).map(|number| (number, number + 1)).collect();
        assert!((0..1000).all(|number| map[&number] == number + 1));
    }
}
