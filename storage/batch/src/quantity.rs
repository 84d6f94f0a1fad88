//! One newtype per quantity, so that an offset is never taken for an epoch. The inner integer is public because
//! the wire and the disk need it; arithmetic is spelled out where it means something.

use std::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity!(
    /// Position of a record in a partition.
    Offset(i64)
);
quantity!(
    /// Counts a partition's leaders; -1 is "not known".
    LeaderEpoch(i32)
);
quantity!(
    /// Names an idempotent or transactional producer; -1 is "none".
    ProducerId(i64)
);
quantity!(
    /// Fences older instances of one producer id; -1 is "none".
    ProducerEpoch(i16)
);
quantity!(
    /// Number of a record within (producer id, epoch, partition); wraps from `i32::MAX` to 0; -1 is "none".
    Sequence(i32)
);
quantity!(
    /// Milliseconds since 1970-01-01T00:00:00Z; -1 is "no timestamp".
    TimestampMs(i64)
);

pub const NO_TIMESTAMP: TimestampMs = TimestampMs(-1);
pub const NO_SEQUENCE: Sequence = Sequence(-1);

impl Offset {
    /// `self + delta`, saturating: offsets near `i64::MAX` exist only in hostile bytes, and there a wrap to a
    /// negative offset would pass comparisons that it must fail.
    pub fn plus(self, delta: i64) -> Offset {
        Offset(self.0.saturating_add(delta))
    }
}

impl LeaderEpoch {
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);
}

impl ProducerId {
    pub const NONE: ProducerId = ProducerId(-1);
}

impl ProducerEpoch {
    pub const NONE: ProducerEpoch = ProducerEpoch(-1);
}

impl Sequence {
    /// The sequence `increment` (>= 0) records later; wraps from `i32::MAX` to 0 as Kafka's does.
    pub fn plus(self, increment: i32) -> Sequence {
        const MODULUS: i64 = 1 << 31;
        Sequence(((i64::from(self.0) + i64::from(increment)).rem_euclid(MODULUS)) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(Sequence(i32::MAX).plus(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(4), Sequence(2));
        assert_eq!(Sequence(7).plus(0), Sequence(7));
    }
}
