//! openraft's state machine: replays committed entries into the image and publishes it.
//!
//! The image lives in memory; what is durable is the log and the snapshot, from which a start builds it again. An image
//! is published before the answer that depends on it leaves.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::encoding::{StoredLogId, StoredSnapshot, StoredVoters, decode, encode};
use super::store::{self, Store};
use super::types::{Applied, LogId, MetadataRaft, Snapshot, SnapshotMeta, StoredMembership};
use crate::metadata::ids::ClusterId;
use crate::metadata::image::Image;
use crate::metadata::replay::Position;
use crate::planted;

/// Where readers find the newest image.
pub struct Published {
    image: ArcSwap<Image>,
    offset: watch::Sender<u64>,
}

impl Published {
    pub fn new(image: Image) -> Published {
        let offset = image.last_offset;
        Published { image: ArcSwap::from_pointee(image), offset: watch::Sender::new(offset) }
    }

    pub fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.offset.subscribe()
    }

    fn publish(&self, image: &Image) {
        self.image.store(Arc::new(image.clone()));
        // ORDER: after the image, so that who is woken finds it.
        self.offset.send_replace(image.last_offset);
    }
}

pub struct StateMachine {
    image: Image,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: Arc<Published>,
    snapshots: Arc<Snapshots>,
}

/// The snapshot on disk, which two write: one builds its own while a leader sends another.
struct Snapshots {
    store: Arc<dyn Store>,
    /// Held while one is written. Where the newest ends that this process has seen.
    end: tokio::sync::Mutex<Option<LogId>>,
}

impl Snapshots {
    /// Keeps what is newer: the log is cut up to the newest snapshot, and an older one in its place would leave a gap.
    async fn save(&self, end: Option<LogId>, bytes: Bytes) -> io::Result<()> {
        let mut newest = self.end.lock().await;
        if *newest > end {
            return Ok(());
        }
        store::beside(&self.store, move |store| {
            // At a start openraft hands back what it was given: no need to write it again.
            match store.snapshot()?.as_deref() == Some(&*bytes) {
                true => Ok(()),
                false => store.save_snapshot(&bytes),
            }
        })
        .await?;
        *newest = end;
        Ok(())
    }
}

/// Between tries to save a snapshot on a full disk.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(1);

impl StateMachine {
    pub fn new(cluster_id: ClusterId, published: Arc<Published>, store: Arc<dyn Store>) -> StateMachine {
        StateMachine {
            image: Image::empty(cluster_id),
            last_applied: None,
            membership: StoredMembership::default(),
            published,
            snapshots: Arc::new(Snapshots { store, end: tokio::sync::Mutex::new(None) }),
        }
    }

    #[cfg(test)]
    pub(super) fn published_image(&self) -> Arc<Image> {
        self.published.image()
    }

    /// `accepted` of the answer.
    fn apply_records(&mut self, log_id: &LogId, change: &super::types::Change) -> io::Result<bool> {
        let epoch = log_id.leader_id.term;
        if change.decided_in != epoch {
            tracing::warn!(
                offset = log_id.index,
                epoch,
                decided_in = change.decided_in,
                "an entry decided in an earlier epoch is void"
            );
            return Ok(false);
        }
        let at = Position { offset: log_id.index, epoch };
        // A record that contradicts the image panics in `replay`; openraft stops on an error, and says why.
        catch_unwind(AssertUnwindSafe(|| self.image.replay_entry(&change.records, at))).map_err(|panic| {
            let reason = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "a record cannot be replayed".into());
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        self.published.publish(&self.image);
        Ok(true)
    }

    fn builder(&self) -> SnapshotBuilder {
        SnapshotBuilder {
            image: self.image.clone(),
            last_applied: self.last_applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
        }
    }
}

impl RaftStateMachine<MetadataRaft> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<MetadataRaft>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let accepted = match &entry.payload {
                EntryPayload::Blank => true,
                EntryPayload::Normal(change) => self.apply_records(&entry.log_id, change)?,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    true
                }
            };
            self.last_applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(Applied { accepted });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let stored: StoredSnapshot = decode(&snapshot).map_err(invalid)?;
        if self.image.cluster_id.is_known() && stored.cluster_id != self.image.cluster_id {
            return Err(invalid(format!(
                "it is of cluster {}, this is cluster {}",
                stored.cluster_id, self.image.cluster_id
            )));
        }
        let at = Position { offset: stored.image_at.offset, epoch: stored.image_at.epoch };
        let image = catch_unwind(|| {
            Image::from_records(stored.cluster_id.clone(), &stored.records, at, stored.features_epoch)
        })
        .map_err(|_| invalid("its records contradict each other"))?;
        self.snapshots.save(meta.last_log_id, snapshot).await?;
        self.image = image;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.published.publish(&self.image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some(bytes) = self.snapshots.store.snapshot()? else { return Ok(None) };
        let stored: StoredSnapshot = decode(&bytes).map_err(invalid)?;
        let meta = SnapshotMeta {
            last_log_id: stored.last.map(LogId::from),
            last_membership: stored.membership().map_err(invalid)?,
        };
        Ok(Some(Snapshot { meta, snapshot: bytes.into() }))
    }
}

fn invalid(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the metadata snapshot: {reason}"))
}

/// A view of the state machine at one offset; later changes do not reach it.
pub struct SnapshotBuilder {
    image: Image,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<MetadataRaft> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let mut stored = StoredSnapshot {
            cluster_id: self.image.cluster_id.clone(),
            last: self.last_applied.as_ref().map(StoredLogId::from),
            voters: StoredVoters::from(self.membership.membership()),
            voters_at: self.membership.log_id().as_ref().map(StoredLogId::from),
            image_at: StoredLogId { epoch: self.image.last_epoch, offset: self.image.last_offset },
            features_epoch: self.image.features_epoch,
            records: self.image.to_records(),
        };
        if planted::is("snapshot-lacks-its-tail") {
            stored.records.pop();
        }
        let bytes: Bytes = encode(&stored)?.into();
        // ORDER: openraft purges the log once this returns, so the snapshot is durable before.
        // Nothing needs this snapshot now, so a full disk is waited out. Whoever closes the store ends that.
        while let Err(error) = self.snapshots.save(self.last_applied, bytes.clone()).await {
            if error.kind() != io::ErrorKind::StorageFull {
                return Err(error);
            }
            tokio::time::sleep(FULL_DISK_PAUSE).await;
        }
        let meta = SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() };
        Ok(Snapshot { meta, snapshot: bytes })
    }
}
