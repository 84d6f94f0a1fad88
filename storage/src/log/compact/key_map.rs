//! For each key the offset of its newest record, in bounded memory: keys are represented by 128 bits of SipHash. Two keys
//! that share them would cost the older one its last record; with 2^32 keys the odds of any such pair are 2^-65 (Kafka
//! takes 128 bits of MD5).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use ottla_batch::Offset;

/// Size of an entry with its share of the table's free room.
const ENTRY_BYTES: usize = 48;

pub(super) struct KeyMap {
    offsets: HashMap<[u64; 2], Offset>,
    entries_max: usize,
}

impl KeyMap {
    pub(super) fn new(bytes_max: usize) -> KeyMap {
        KeyMap { offsets: HashMap::new(), entries_max: (bytes_max / ENTRY_BYTES).max(1) }
    }

    /// False: there is no room for another key.
    pub(super) fn insert(&mut self, key: &[u8], offset: Offset) -> bool {
        let is_full = self.offsets.len() >= self.entries_max;
        match self.offsets.entry(fingerprint(key)) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                entry.insert(offset);
                true
            }
            std::collections::hash_map::Entry::Vacant(_) if is_full => false,
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(offset);
                true
            }
        }
    }

    /// Whether a newer record of the key is known.
    pub(super) fn is_superseded(&self, key: &[u8], offset: Offset) -> bool {
        self.offsets.get(&fingerprint(key)).is_some_and(|newest| *newest > offset)
    }
}

fn fingerprint(key: &[u8]) -> [u64; 2] {
    // Two independent 64-bit halves: the second hashes the key behind a prefix.
    [0u8, 1].map(|prefix| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(prefix);
        hasher.write(key);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offset_counts_and_the_bound_holds() {
        let mut map = KeyMap::new(3 * ENTRY_BYTES);
        for (key, offset) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            assert!(map.insert(key.as_bytes(), Offset(offset)));
        }
        assert!(!map.insert(b"d", Offset(5)), "full");
        assert!(map.insert(b"a", Offset(6)), "a known key needs no room");
        assert!(map.is_superseded(b"a", Offset(3)));
        assert!(!map.is_superseded(b"a", Offset(6)));
        assert!(!map.is_superseded(b"d", Offset(0)));
    }
}
