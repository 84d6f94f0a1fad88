//! Which partition a record goes to: the same as Java's producer chooses, so that mixed clients keep keys together.

/// Kafka's 32-bit murmur2 (seed 0x9747b28c), as an unsigned number.
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key. `partitions` is at least 1.
pub fn partition_of_key(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition, got {partitions}");
    // Java clears the sign bit (`toPositive`) rather than taking the absolute value.
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions
}

/// Records without a key fill one partition until a batch's worth has gone there, then move on (KIP-480, KIP-794).
#[derive(Debug, Default)]
pub struct Sticky {
    partition: i32,
    bytes: usize,
}

impl Sticky {
    /// Starts at a partition of the caller's choice, so that many producers do not begin at the same one.
    pub fn starting_at(seed: u32, partitions: i32) -> Sticky {
        Sticky { partition: (seed & 0x7fff_ffff) as i32 % partitions.max(1), bytes: 0 }
    }

    /// Chooses for a record of `record_bytes`. `usable` says which partitions have a leader; if none has, all count.
    pub fn choose(
        &mut self,
        partitions: i32,
        record_bytes: usize,
        switch_bytes: usize,
        usable: impl Fn(i32) -> bool,
    ) -> i32 {
        assert!(partitions > 0, "a topic has at least one partition, got {partitions}");
        let current_is_fine = self.partition < partitions && usable(self.partition);
        if self.bytes >= switch_bytes || !current_is_fine {
            let start = self.partition.wrapping_add(1).max(0) % partitions;
            self.partition = (0..partitions)
                .map(|step| (start + step) % partitions)
                .find(|candidate| usable(*candidate))
                .unwrap_or(start);
            self.bytes = 0;
        }
        self.bytes += record_bytes;
        self.partition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own UtilsTest.testMurmur2.
    #[test]
    fn murmur2_is_kafkas() {
        let vectors: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (&[], 275_646_681),
        ];
        for (data, expected) in vectors {
            assert_eq!(murmur2(data) as i32, expected, "{:?}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn keys_go_where_java_sends_them() {
        // toPositive(murmur2("foobar")) = 1357151166.
        assert_eq!(partition_of_key(b"foobar", 6), (1_357_151_166 % 6));
        assert_eq!(partition_of_key(b"anything", 1), 0);
    }

    #[test]
    fn sticky_moves_on_after_a_batch_and_avoids_the_unusable() {
        let mut sticky = Sticky::default();
        let chosen: Vec<i32> = (0..6).map(|_| sticky.choose(3, 50, 100, |_| true)).collect();
        assert_eq!(chosen, [0, 0, 1, 1, 2, 2]);
        assert_eq!(sticky.choose(3, 50, 100, |p| p != 0), 1);
        assert_eq!(sticky.choose(3, 1, 100, |_| false), 2, "with no leader anywhere it still answers");
        assert_eq!(sticky.choose(1, 1, 100, |_| true), 0, "the topic was made again, smaller");
    }
}
