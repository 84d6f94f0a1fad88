//! A log that begins behind what lies in the tier: a follower whose leader has the next records only there takes what a log
//! must know of them, leader epochs and producers, from the object that ends where it begins.
//!
//! The danger is a log that begins there and does not know them: a leader that is made of it takes a producer's retry for new,
//! and tells followers that they diverged. So the file of the first segment comes last. Without it the next open finds a log that
//! ends before, and the leader sends the follower here again.

use ottla_batch::{Offset, ProducerId};

use super::leader_epochs::LeaderEpochs;
use super::producer_state::ProducerState;
use super::segment::{SNAPSHOT_SUFFIX, file_name};
use super::{ChangeError, Log};

/// What lies in the tier before the first record of a log, as of that record.
pub struct BehindTier {
    /// The first offset that a reader gets.
    pub log_start_offset: Offset,
    epochs: LeaderEpochs,
    producers: ProducerState,
    snapshot: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("the leader epochs of the tiered segment are no epochs")]
    Epochs,
    #[error("the producer snapshot of the tiered segment cannot be read")]
    Producers,
}

impl BehindTier {
    /// `epochs` and `producers`: the sections of the object that ends where the log is to begin.
    pub fn new(
        log_start_offset: Offset,
        epochs: &[u8],
        producers: &[u8],
    ) -> Result<BehindTier, BootstrapError> {
        let epochs = std::str::from_utf8(epochs).ok().and_then(LeaderEpochs::decode);
        let decoded = ProducerState::decode_snapshot(producers).ok_or(BootstrapError::Producers)?;
        Ok(BehindTier {
            log_start_offset,
            epochs: epochs.ok_or(BootstrapError::Epochs)?,
            producers: decoded,
            snapshot: producers.to_vec(),
        })
    }
}

impl BehindTier {
    /// The highest that is known there; a new producer must not get one of these.
    pub fn producer_id_max(&self) -> Option<ProducerId> {
        self.producers.id_max()
    }
}

impl Log {
    /// Removes everything; the next record gets `offset`, and what lies before it is in the tier.
    pub fn start_behind_tier(&mut self, offset: Offset, before: BehindTier) -> Result<(), ChangeError> {
        self.latch.check()?;
        tracing::info!(dir = %self.dir.display(), from = %self.end_offset, to = %offset, "starting behind the tier");
        self.lower_recovery_point(Offset(0))?;
        self.begin_behind_tier(offset, before).inspect_err(|error| {
            self.latch.set(format!("a start behind the tier failed half way: {error}"));
        })
    }

    /// It holds nothing, and what lies before is in the tier, but not known here: a log that was cut where the tier alone has the
    /// records. It has to begin behind the tier again.
    pub fn lacks_its_past(&self) -> bool {
        self.log_start_offset < self.end_offset
            && self.local_start_offset() == self.end_offset
            && self.snapshots.binary_search(&self.end_offset).is_err()
    }

    fn begin_behind_tier(&mut self, offset: Offset, before: BehindTier) -> Result<(), ChangeError> {
        let BehindTier { log_start_offset, epochs, producers, snapshot } = before;
        self.remove_segments()?;
        self.remove_snapshots(|_| true).map_err(|error| self.change_error(error))?;
        // ORDER: nothing of what was here may come back beside what follows.
        self.disk.sync_dir(&self.dir).map_err(|error| self.change_error(error))?;
        self.epochs.replace(epochs.up_to(offset));
        self.epochs.truncate_from_start(log_start_offset);
        self.producers = producers;
        let path = self.dir.join(file_name(offset, SNAPSHOT_SUFFIX));
        self.disk.write_durably(&path, &snapshot).map_err(|error| self.change_error(error))?;
        self.snapshots = vec![offset];
        if let Some(write) = self.epoch_file.write_for(&self.epochs, offset) {
            write.run().map_err(|error| self.change_error(error))?;
        }
        self.set_log_start_offset(log_start_offset);
        // What comes before is not to be looked for in the batches.
        self.live.set_recovery_point(offset);
        self.checkpoints.write().map_err(|error| self.change_error(error))?;
        // ORDER: last, see the module's head.
        self.begin_at(offset)?;
        self.sync_cut()
    }
}
