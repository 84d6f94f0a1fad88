//! The bugs that can be planted, and within how many seeds each must be caught. Where a bug is, `planted!` has its name.

use crate::plan::Shape;

pub struct Bug {
    pub name: &'static str,
    pub seeds_max: u64,
    /// Where it shows.
    pub shape: Option<Shape>,
}

const fn bug(name: &'static str, seeds_max: u64, shape: Option<Shape>) -> Bug {
    Bug { name, seeds_max, shape }
}

pub const BUGS: [Bug; 14] = [
    // Records are acknowledged when they are appended.
    bug("ack-before-fsync", 40, Some(Shape::One)),
    // A consumer is handed what is not committed.
    bug("reads-past-the-high-watermark", 10, Some(Shape::One)),
    // Only the last two batches of a producer are recognised when they come again.
    bug("duplicates-known-two-deep", 100, Some(Shape::One)),
    // A start that reads the producers from a snapshot knows none of them.
    bug("snapshot-forgets-producers", 100, Some(Shape::One)),
    // Recovery takes any batch whose header is whole.
    bug("crc-unchecked-at-recovery", 100, Some(Shape::One)),
    // A member that was left behind by a rebalance may still commit.
    bug("stale-generation-commits", 200, Some(Shape::One)),
    // A coordinator that takes over a partition does not read the commits in it.
    bug("coordinator-forgets-commits", 40, Some(Shape::One)),
    // A coordinator answers from memory without knowing whether it still leads.
    bug("coordinator-asks-nobody", 100, Some(Shape::Three)),
    // A follower cuts its log to the high watermark that it knows, not to where it parts from its leader's (KIP-101).
    bug("truncates-to-the-high-watermark", 40, Some(Shape::Three)),
    // Where an epoch ends counts, but not of which epoch it is the end (KIP-279).
    bug("epoch-of-the-answer-ignored", 100, Some(Shape::Three)),
    // Commits with fewer members in sync than `min.insync.replicas`.
    bug("min-insync-ignored", 100, Some(Shape::Three)),
    // A leader reckons with the in-sync set that it proposes.
    bug("isr-changes-before-the-controller-says-so", 100, Some(Shape::Three)),
    // A voter that restarts has forgotten its votes.
    bug("vote-not-persisted", 40, Some(Shape::Three)),
    // A snapshot of the metadata lacks its last record.
    bug("snapshot-lacks-its-tail", 20, Some(Shape::Three)),
];

/// Before anything is simulated, once.
pub fn plant(name: &str) {
    assert!(BUGS.iter().any(|bug| bug.name == name), "no bug is called {name}");
    let _ = ottla_batch::planted::PLANTED.set(name.to_owned());
    let _ = ottla_raft::planted::PLANTED.set(name.to_owned());
}
