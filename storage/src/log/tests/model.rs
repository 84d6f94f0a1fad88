//! The log against a vector, under random operations and crashes: what was synced is never lost, what was not may be,
//! nothing is ever corrupted, reordered or made up, and the producer's retries are recognised.

use super::support::*;
use crate::log::*;
use bytes::Bytes;
use ottla_batch::{BatchOptions, Offset, ProducerEpoch, ProducerId, Sequence};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Append {
        count: usize,
        size: usize,
    },
    Sync,
    /// The sync begins, more is appended, then it ends.
    SyncAcrossAppend,
    Checkpoint,
    /// To a batch border at this share of the log.
    Truncate {
        percent: u64,
    },
    Crash {
        seed: u64,
    },
    Kill,
    CleanRestart,
    Release,
    /// This many bytes are left from now on; None: enough.
    Capacity {
        left: Option<u64>,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (1..4usize, 1..120usize).prop_map(|(count, size)| Op::Append { count, size }),
        4 => Just(Op::Sync),
        2 => Just(Op::SyncAcrossAppend),
        1 => Just(Op::Checkpoint),
        1 => (0..=100u64).prop_map(|percent| Op::Truncate { percent }),
        2 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
        1 => Just(Op::Kill),
        1 => Just(Op::CleanRestart),
        1 => Just(Op::Release),
        1 => proptest::option::of(0..2000u64).prop_map(|left| Op::Capacity { left }),
    ]
}

/// One batch as it was appended.
#[derive(Debug, Clone, PartialEq)]
struct Written {
    base: i64,
    count: usize,
    bytes: Bytes,
    /// Of its first record; record n has value `first_value + n`.
    first_value: u64,
}

struct Model {
    t: TestLog,
    batches: Vec<Written>,
    synced: i64,
    next_value: u64,
    epoch: i32,
}

fn end(batches: &[Written]) -> i64 {
    batches.last().map_or(0, |batch| batch.base + batch.count as i64)
}

fn values(batches: &[Written]) -> Vec<(i64, u64)> {
    let of = |batch: &Written| {
        let (base, first) = (batch.base, batch.first_value);
        (0..batch.count as u64).map(move |n| (base + n as i64, first + n)).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

impl Model {
    fn new() -> Model {
        let config = LogConfig { segment_bytes: 2500, index_interval_bytes: 200, ..LogConfig::default() };
        Model { t: TestLog::new(config), batches: Vec::new(), synced: 0, next_value: 0, epoch: 0 }
    }

    fn append(&mut self, count: usize, size: usize) {
        let sequence = end(&self.batches) as i32;
        let values: Vec<Vec<u8>> = (0..count as u64)
            .map(|n| {
                let mut value = (self.next_value + n).to_be_bytes().to_vec();
                value.resize(8 + size, 7);
                value
            })
            .collect();
        let records: Vec<Row<'_>> =
            values.iter().map(|value| (&b"k"[..], Some(value.as_slice()), NOW.0)).collect();
        let options = BatchOptions {
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence(sequence),
            ..BatchOptions::default()
        };
        let bytes = batch_with(options, &records);
        let base = end(&self.batches);
        match self.t.append_in(&bytes, LeaderEpoch(self.epoch)) {
            Ok(appended) => {
                assert_eq!((appended.base_offset, appended.duplicate), (Offset(base), false));
                self.batches.push(Written { base, count, bytes, first_value: self.next_value });
                self.next_value += count as u64;
            }
            Err(AppendError::DiskFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn on_synced(&mut self) {
        self.synced = self.t.log.synced_end_offset().0;
    }

    fn contents(&self) -> Vec<(i64, u64)> {
        let records = all_records(&self.t.log, Offset(0));
        let value = |record: &ottla_batch::Record| {
            let value = record.value.as_ref().unwrap();
            u64::from_be_bytes(value[..8].try_into().unwrap())
        };
        records.iter().map(|record| (record.offset.0, value(record))).collect()
    }

    fn check(&self) {
        assert_eq!(self.t.log.end_offset().0, end(&self.batches));
        assert_eq!(self.contents(), values(&self.batches));
    }

    /// The last five batches are still known as what they are.
    fn check_retries(&mut self) {
        for batch in self.batches.clone().iter().rev().take(5) {
            let again = self.t.append_in(&batch.bytes, LeaderEpoch(self.epoch)).unwrap();
            assert_eq!((again.duplicate, again.base_offset.0), (true, batch.base));
        }
    }

    fn crash(&mut self, seed: u64) {
        self.t.crash(seed);
        let found = self.contents();
        let found_end = found.last().map_or(0, |last| last.0 + 1);
        assert_eq!(self.t.log.end_offset().0, found_end);
        assert!(found_end >= self.synced, "{found_end} of {} synced", self.synced);
        assert!(values(&self.batches).starts_with(&found), "{found:?} was never the log");
        let survivor: Vec<_> = self.batches.iter().filter(|batch| batch.base < found_end).cloned().collect();
        assert_eq!(end(&survivor), found_end, "batches are whole or gone");
        self.batches = survivor;
        self.synced = found_end;
        self.epoch += 1;
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Append { count, size } => self.append(count, size),
            Op::Sync => {
                let synced = self.t.log.begin_sync().run().unwrap();
                self.t.log.on_synced(synced);
                self.on_synced();
            }
            Op::SyncAcrossAppend => {
                let work = self.t.log.begin_sync();
                let before = end(&self.batches);
                let synced = work.run().unwrap();
                self.append(2, 50);
                self.t.log.on_synced(synced);
                assert_eq!(self.t.log.synced_end_offset().0, before);
                self.synced = before;
            }
            // A full disk may keep a checkpoint from being written; that only makes recovery longer.
            Op::Checkpoint => drop(self.t.checkpoints.write()),
            Op::Truncate { percent } => {
                let index = (self.batches.len() as u64 * percent / 100) as usize;
                let to = self.batches.get(index).map_or(end(&self.batches), |batch| batch.base);
                self.t.simulated.set_capacity(None);
                self.t.log.truncate_to(Offset(to)).unwrap();
                self.batches.truncate(index);
                self.synced = self.synced.min(to);
                self.epoch += 1;
            }
            Op::Crash { seed } => {
                self.t.simulated.set_capacity(None);
                self.crash(seed);
            }
            Op::Kill => {
                self.t.simulated.set_capacity(None);
                self.t.simulated.kill();
                self.t.reopen(LastShutdown::Unclean);
                self.on_synced();
                assert_eq!(self.synced, end(&self.batches));
            }
            Op::CleanRestart => {
                self.t.simulated.set_capacity(None);
                self.t.log.close().unwrap();
                self.t.checkpoints.write().unwrap();
                self.t.reopen(LastShutdown::Clean);
                self.on_synced();
                assert_eq!(self.synced, end(&self.batches));
            }
            Op::Release => drop(self.t.log.release_idle()),
            Op::Capacity { left } => {
                let used = self.t.simulated.used_bytes();
                self.t.simulated.set_capacity(left.map(|left| used + left));
            }
        }
        self.check();
        if matches!(op, Op::Crash { .. } | Op::Kill | Op::CleanRestart | Op::Truncate { .. }) {
            self.check_retries();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_vector_whose_synced_part_survives(ops in proptest::collection::vec(op(), 1..60)) {
        let mut model = Model::new();
        for op in &ops {
            model.apply(op);
        }
        model.t.simulated.set_capacity(None);
        model.crash(ops.len() as u64);
        model.check();
        model.append(1, 1);
        model.check();
    }
}

#[test]
fn the_model_notices_lost_batches() {
    let mut model = Model::new();
    model.append(1, 1);
    model.apply(&Op::Sync);
    // Behind the model's back, as a bug would.
    model.t.log.truncate_to(Offset(0)).unwrap();
    model.t.sync();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.crash(1)));
    assert!(caught.is_err());
}

/// What was truncated is in the file of a segment that no batch after the recovery point is in.
#[test]
fn recovery_syncs_a_truncation_that_the_log_rolled_after() {
    for seed in 0..50 {
        let mut model = Model::new();
        for size in [400; 4] {
            model.append(1, size);
        }
        model.apply(&Op::CleanRestart);
        model.append(2, 50);
        model.apply(&Op::Sync);
        // The last batch goes, and what comes instead begins a segment.
        model.apply(&Op::Truncate { percent: 80 });
        model.append(3, 200);
        assert_eq!(model.t.log.segments_count(), 2);
        model.apply(&Op::Kill);
        model.apply(&Op::Crash { seed });
    }
}
