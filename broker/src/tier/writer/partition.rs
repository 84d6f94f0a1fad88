//! What the leader of one partition does for its tier.
//!
//! A turn does what there is to do and ends; after an error the next one goes on where it stands. A manifest whose answer was lost is
//! written again as it was before anything else is decided: it may be there.

use std::sync::Arc;
use std::time::Duration;

use ottla_batch::{LeaderEpoch, Offset};
use ottla_raft::requests::ReportTierItem;
use ottla_storage::log::{ChangeError, PastTier, ReadError, SealedError, SealedSegment};
use ottla_storage::tiering::key::{SegmentKey, partition_prefix};
use ottla_storage::tiering::manifest::{self, Manifest, ManifestError, TieredSegment, Writer};
use ottla_storage::tiering::object::{Damaged, FOOTER_BYTES, Footer};
use ottla_storage::tiering::store::{Condition, Content, PAGE_KEYS_MAX, StoreError};
use tokio::time::Instant;

use super::agree::{LeadersLog, agreed_end};
use super::metrics::Lag;
use super::{Context, backoff, reports, tell};
use crate::clock;
use crate::replica::quota::Room;
use crate::replica::{LeaderError, Replica, SealedSegmentError};
use crate::threads;

/// Segments that one manifest brings, so that a backlog of small ones does not cost a manifest each.
const SEGMENTS_PER_MANIFEST_MAX: usize = 16;
/// And their bytes: what is copied for nothing when the process dies before the manifest.
const BYTES_PER_MANIFEST_MAX: u64 = 256 << 20;
/// Segments of one turn, so that all partitions get theirs.
const SEGMENTS_PER_TURN_MAX: usize = 64;

/// Why a turn ended early.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Manifest(ManifestError),
    #[error(
        "the store has manifest {found} as the newest, and the metadata knows {known}: it is not what it was"
    )]
    ManifestsLost { found: u64, known: u64 },
    /// Whatever lies in between is gone.
    #[error("the tier ends at {tier_end}, and the local log begins at {local_start}")]
    Gap { tier_end: Offset, local_start: Offset },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A local segment is damaged: it does not go to the tier, and nothing after it.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    #[error("a segment for the tier: {0}")]
    Damaged(#[from] Damaged),
    #[error("work beside the tasks was lost: {0}")]
    Lost(#[from] tokio::task::JoinError),
    /// Another leader wrote a manifest meanwhile; what it says is read at the next turn.
    #[error("manifest {0} was written by another leader")]
    Overtaken(u64),
    /// A leader of a newer epoch wrote one.
    #[error("the leader of epoch {0} works on the tier")]
    Fenced(LeaderEpoch),
    #[error(transparent)]
    NotLeader(#[from] LeaderError),
    #[error("the metadata does not take what the tier is now")]
    NotReported,
}

impl WorkError {
    /// Nothing is wrong; there is just nothing more to do in this epoch.
    fn ends_the_work(&self) -> bool {
        matches!(self, WorkError::Fenced(_) | WorkError::NotLeader(_))
    }
}

impl From<ManifestError> for WorkError {
    fn from(error: ManifestError) -> WorkError {
        match error {
            ManifestError::Store(error) => WorkError::Store(error),
            error => WorkError::Manifest(error),
        }
    }
}

impl From<SealedSegmentError> for WorkError {
    fn from(error: SealedSegmentError) -> WorkError {
        match error {
            SealedSegmentError::NotLeader(error) => error.into(),
            SealedSegmentError::Read(error) => error.into(),
            SealedSegmentError::Change(error) => error.into(),
        }
    }
}

/// What is known of a partition's tier while this broker leads it in one epoch.
pub(crate) struct Leading {
    epoch: LeaderEpoch,
    /// Whether `manifest` is what the store has, and was compared with the log.
    is_loaded: bool,
    /// The newest one that is in the store. None: there is none.
    manifest: Option<Arc<Manifest>>,
    /// The next one, which may be there already: to be written as it is.
    draft: Option<Manifest>,
    /// Objects whose upload failed, or whose manifest another leader kept from being written.
    abandoned: Vec<SegmentKey>,
    /// Whether what older leaders left without a name was removed.
    is_swept: bool,
    /// Since when the active segment of this base offset is known to have committed records.
    unsealed: Option<(Offset, Instant)>,
    /// The last turn ended before all was copied.
    has_more: bool,
    failures: u32,
    due: Instant,
    is_over: bool,
    lag: Lag,
}

impl Leading {
    pub(super) fn new(epoch: LeaderEpoch) -> Leading {
        Leading {
            epoch,
            is_loaded: false,
            manifest: None,
            draft: None,
            abandoned: Vec::new(),
            is_swept: false,
            unsealed: None,
            has_more: false,
            failures: 0,
            due: Instant::now(),
            is_over: false,
            lag: Lag::default(),
        }
    }

    pub(super) fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.is_over && self.due <= now
    }

    /// Whether it is to have another turn at once.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    pub(super) fn lag(&self) -> Lag {
        self.lag
    }

    pub(super) async fn take_turn(&mut self, cx: &Context, replica: &Arc<Replica>) {
        self.has_more = false;
        let ended = self.work(cx, replica).await;
        let past = replica.past_tier(self.known_end(cx, replica));
        match ended {
            Ok(()) => self.failures = 0,
            Err(error) if error.ends_the_work() => {
                tracing::info!(topic = %replica.topic(), partition = replica.partition(), %error, "leaves the tier to others");
                self.is_over = true;
            }
            Err(error) => {
                self.has_more = false;
                self.failures += 1;
                cx.metrics.copy_failures.inc();
                tell(replica, self.epoch, &error, self.failures);
                self.due = Instant::now() + backoff(cx.settings(), self.failures);
            }
        }
        self.note_lag(past);
    }

    fn note_lag(&mut self, past: PastTier) {
        self.lag = Lag {
            bytes: past.sealed_bytes,
            segments: past.sealed_segments,
            tiered_bytes: self.manifest.as_ref().map_or(0, |manifest| manifest.size_in_bytes()),
            tiered_segments: self.manifest.as_ref().map_or(0, |manifest| manifest.segments().len() as u64),
            is_failing: self.failures > 0,
        };
    }

    async fn work(&mut self, cx: &Context, replica: &Arc<Replica>) -> Result<(), WorkError> {
        replica.check_leader(self.epoch)?;
        self.commit(cx, replica).await?;
        if !self.is_loaded {
            self.load(cx, replica).await?;
        }
        self.remove_abandoned(cx).await?;
        let settings = replica.settings();
        if !settings.log.remote_storage {
            return self.leave_tier(cx, replica).await;
        }
        self.retain(replica)?;
        self.shrink(cx, replica).await?;
        if !settings.log.remote_copy_disabled {
            // ORDER: a full disk, on which nothing can be sealed, gets room by what is copied.
            self.copy(cx, replica).await?;
            self.seal(cx, replica)?;
        }
        self.sweep(cx, replica).await
    }

    /// The same, by the word of the metadata as long as the store does not say.
    fn known_end(&self, cx: &Context, replica: &Replica) -> Offset {
        let image = cx.replicas.metadata().image();
        let position = image.tier_position(replica.topic_id(), replica.partition());
        match position.filter(|_| !self.is_loaded) {
            Some(position) => Offset(position.end_offset).max(replica.log_start_offset()),
            None => self.tier_end(replica),
        }
    }

    /// Where the next segment for the tier begins.
    fn tier_end(&self, replica: &Replica) -> Offset {
        let end = self.manifest.as_ref().and_then(|manifest| manifest.end_offset());
        end.unwrap_or(Offset(0)).max(replica.log_start_offset())
    }

    fn writer(&self, cx: &Context) -> Writer {
        Writer { broker: cx.replicas.local().0, leader_epoch: self.epoch, nonce: rand::random() }
    }

    /// The next manifest, to be changed.
    fn next(&self, cx: &Context, replica: &Replica) -> Manifest {
        let writer = self.writer(cx);
        let log_start = replica.log_start_offset();
        match &self.manifest {
            Some(manifest) => {
                let mut next = manifest.next(writer);
                next.start_at(log_start, clock::now());
                next
            }
            None => {
                let (topic, id) = (replica.topic(), replica.topic_id().0);
                Manifest::first(topic, id, replica.partition(), writer, log_start)
            }
        }
    }

    /// Reads what the leaders before left, and compares it with the log.
    async fn load(&mut self, cx: &Context, replica: &Arc<Replica>) -> Result<(), WorkError> {
        let (topic, partition) = (replica.topic_id(), replica.partition());
        let position = cx.replicas.metadata().image().tier_position(topic, partition);
        let loaded = manifest::load(&**cx.tier.store(), cx.tier.prefix(), topic.0, partition).await?;
        let found = loaded.as_ref().map_or(0, |manifest| manifest.number);
        if let Some(position) = position.filter(|position| position.manifest > found) {
            return Err(WorkError::ManifestsLost { found, known: position.manifest });
        }
        if let Some(manifest) = &loaded
            && manifest.writer.leader_epoch > self.epoch
        {
            return Err(WorkError::Fenced(manifest.writer.leader_epoch));
        }
        let log_start = loaded.as_ref().map_or(Offset(0), |manifest| manifest.log_start_offset);
        if log_start > replica.log_start_offset() {
            // An older leader deleted up to there, and this broker did not hear of it.
            replica.delete_records(log_start.min(replica.high_watermark()))?;
        }
        let (agreed, local_start) = replica.with_log(self.epoch, |log| {
            let local_start = log.local_start_offset();
            let end_of_epoch = |epoch| log.end_offset_for_epoch(epoch);
            let leaders = LeadersLog { local_start, end: log.end_offset(), end_of_epoch: &end_of_epoch };
            (loaded.as_ref().and_then(|manifest| agreed_end(manifest, &leaders)), local_start)
        })?;
        let tier_end = loaded.as_ref().and_then(Manifest::end_offset);
        let covered = agreed.unwrap_or(Offset(0)).max(replica.log_start_offset());
        if local_start > covered {
            if agreed.is_some() {
                return Err(WorkError::Gap { tier_end: covered, local_start });
            }
            // Nothing is in the tier: the log begins where it begins.
            replica.delete_records(local_start.min(replica.high_watermark()))?;
        }
        self.manifest = loaded.map(Arc::new);
        self.is_loaded = true;
        let is_doubtful = position.is_some_and(|position| position.is_doubtful);
        let is_cut = agreed < tier_end;
        if let (Some(agreed), true) = (agreed, is_cut || is_doubtful) {
            let mut draft = self.next(cx, replica);
            if is_cut {
                tracing::warn!(
                    topic = %replica.topic(), partition, ?tier_end, %agreed,
                    "the log of the leader parts from the tier, where what follows is given up"
                );
                draft.truncate_to(agreed, clock::now());
            }
            // Also where nothing is cut: an older leader that still believes it leads is fenced by it.
            self.draft = Some(draft);
            self.commit(cx, replica).await?;
        } else if let Some(manifest) = &self.manifest {
            let end = self.tier_end(replica);
            let is_known = position.is_some_and(|position| {
                position.manifest == manifest.number && position.end_offset == end.0 && !position.is_doubtful
            });
            if !is_known {
                self.report(cx, replica);
            }
        } else if is_doubtful {
            return Err(WorkError::ManifestsLost { found: 0, known: 1 });
        }
        Ok(())
    }

    /// Writes the draft, if there is one, and says so to the metadata.
    async fn commit(&mut self, cx: &Context, replica: &Replica) -> Result<(), WorkError> {
        let Some(draft) = &self.draft else { return Ok(()) };
        replica.check_leader(self.epoch)?;
        match manifest::commit(&**cx.tier.store(), cx.tier.prefix(), draft).await {
            Ok(()) => {
                let committed = self.draft.take().map(Arc::new);
                if let Some(committed) = &committed {
                    cx.tier.on_committed(Arc::clone(committed)).await;
                }
                self.manifest = committed;
                cx.metrics.manifests.inc();
                self.report(cx, replica);
                Ok(())
            }
            Err(ManifestError::Fenced { number, writer }) => {
                cx.metrics.manifest_conflicts.inc();
                self.give_up_draft();
                self.is_loaded = false;
                match writer.leader_epoch > self.epoch {
                    true => Err(WorkError::Fenced(writer.leader_epoch)),
                    false => Err(WorkError::Overtaken(number)),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What it would have named lies in the store without a name.
    fn give_up_draft(&mut self) {
        let Some(draft) = self.draft.take() else { return };
        let known = self.manifest.as_ref().map_or(&[][..], |manifest| manifest.segments());
        let new = draft.segments().iter().filter(|segment| !known.contains(segment));
        self.abandoned.extend(new.map(|segment| draft.key_of(segment)));
    }

    fn report(&self, cx: &Context, replica: &Replica) {
        cx.reports.tell(self.report_item(replica));
    }

    fn report_item(&self, replica: &Replica) -> ReportTierItem {
        let manifest = self.manifest.as_ref();
        let end =
            manifest.map_or(Offset(0), |manifest| manifest.end_offset().unwrap_or(manifest.log_start_offset));
        ReportTierItem {
            topic: replica.topic_id(),
            partition: replica.partition(),
            leader_epoch: ottla_raft::LeaderEpoch(self.epoch.0),
            manifest: manifest.map_or(0, |manifest| manifest.number),
            end_offset: end.0,
        }
    }

    /// Moves the log start to where retention of tier and log together allows it.
    fn retain(&self, replica: &Arc<Replica>) -> Result<(), WorkError> {
        let settings = replica.settings();
        let Some(manifest) = self.manifest.as_ref().filter(|_| settings.log.cleanup_policy.deletes()) else {
            return Ok(());
        };
        let retention_bytes = settings.log.retention_bytes.map_or(-1, |bytes| bytes as i64);
        let retention_ms = settings.log.retention_ms.unwrap_or(-1);
        let past = replica.past_tier(self.tier_end(replica));
        let from = manifest.retained_from(clock::now(), retention_ms, retention_bytes, past.bytes);
        // ORDER: readers hear that it is gone before it is.
        if from > replica.log_start_offset() {
            replica.delete_records(from.min(replica.high_watermark()))?;
        }
        Ok(())
    }

    /// Deletes the objects that nobody reads any more, and lets the manifest forget what lies before the log start.
    async fn shrink(&mut self, cx: &Context, replica: &Replica) -> Result<(), WorkError> {
        let Some(manifest) = self.manifest.clone() else { return Ok(()) };
        let (now, log_start) = (clock::now(), replica.log_start_offset());
        let grace_ms = i64::try_from(cx.settings().delete_grace.as_millis()).unwrap_or(i64::MAX);
        let old = manifest.deletable(ottla_batch::TimestampMs(now.0.saturating_sub(grace_ms)));
        delete(cx, &old).await?;
        if old.is_empty() && manifest.segments().first().is_none_or(|first| first.valid_to > log_start) {
            // A start within the first segment is in the manifest with the next change.
            return Ok(());
        }
        let mut draft = self.next(cx, replica);
        draft.forget(&old);
        self.draft = Some(draft);
        self.commit(cx, replica).await
    }

    /// Ends an active segment whose committed records have waited long enough.
    fn seal(&mut self, cx: &Context, replica: &Arc<Replica>) -> Result<(), WorkError> {
        let base = replica.with_log(self.epoch, |log| log.active_base_offset())?;
        if replica.last_stable_offset() <= base {
            self.unsealed = None;
            return Ok(());
        }
        let now = Instant::now();
        match self.unsealed {
            Some((known, since)) if known == base => {
                if now.duration_since(since) >= cx.settings().segment_ms_max {
                    replica.seal_active_segment(self.epoch)?;
                    self.unsealed = None;
                }
            }
            _ => self.unsealed = Some((base, now)),
        }
        Ok(())
    }

    /// Copies the sealed segments that are committed.
    async fn copy(&mut self, cx: &Context, replica: &Arc<Replica>) -> Result<(), WorkError> {
        let mut draft: Option<Manifest> = None;
        let (mut segments, mut bytes) = (0, 0);
        for number in 1..=SEGMENTS_PER_TURN_MAX {
            self.has_more = number == SEGMENTS_PER_TURN_MAX;
            let from = draft.as_ref().and_then(Manifest::end_offset).unwrap_or_default();
            let from = from.max(self.tier_end(replica));
            let Some(sealed) = replica.sealed_segment(self.epoch, from)? else {
                self.has_more = false;
                break;
            };
            throttle(cx, sealed.size).await;
            let mut next = draft.take().unwrap_or_else(|| self.next(cx, replica));
            let copied = self.copy_one(cx, replica, sealed, &mut next).await;
            if copied.is_ok() || segments > 0 {
                draft = Some(next);
            }
            bytes += match copied {
                Ok(bytes) => bytes,
                Err(error) => {
                    // What was copied before counts.
                    self.draft = draft;
                    return Err(error);
                }
            };
            segments += 1;
            if segments == SEGMENTS_PER_MANIFEST_MAX || bytes >= BYTES_PER_MANIFEST_MAX {
                self.draft = draft.take();
                self.commit(cx, replica).await?;
                (segments, bytes) = (0, 0);
            }
        }
        self.draft = draft;
        self.commit(cx, replica).await
    }

    async fn copy_one(
        &mut self,
        cx: &Context,
        replica: &Replica,
        sealed: SealedSegment,
        next: &mut Manifest,
    ) -> Result<u64, WorkError> {
        let key = SegmentKey {
            topic_id: replica.topic_id().0,
            partition: replica.partition(),
            base_offset: sealed.base_offset,
            end_offset: sealed.end_offset,
            leader_epoch: self.epoch,
            suffix: rand::random(),
        };
        let epochs = sealed.record_epochs.clone();
        let content = threads::blocking(move || sealed.into_object(&key)).await??;
        let (footer, object_bytes) = (footer(&content)?, content.len());
        let name = format!("{}{key}", cx.tier.prefix());
        // ORDER: named by a manifest only when it is there.
        if let Err(error) = cx.tier.store().put(&name, content, Condition::Absent).await {
            self.abandoned.push(key);
            return Err(error.into());
        }
        let segment = TieredSegment {
            base_offset: key.base_offset,
            end_offset: key.end_offset,
            valid_to: key.end_offset,
            leader_epoch: key.leader_epoch,
            suffix: key.suffix,
            bytes: object_bytes,
            max_timestamp: footer.max_timestamp,
            epochs,
        };
        if let Err(error) = next.add(segment, clock::now()) {
            self.abandoned.push(key);
            return Err(error.into());
        }
        cx.metrics.copied_bytes.inc_by(object_bytes);
        cx.metrics.copied_segments.inc();
        tracing::debug!(topic = %replica.topic(), partition = replica.partition(), %key, "segment copied to the tier");
        Ok(object_bytes)
    }

    async fn remove_abandoned(&mut self, cx: &Context) -> Result<(), WorkError> {
        delete(cx, &self.abandoned).await?;
        self.abandoned.clear();
        Ok(())
    }

    /// Removes what older leaders left that no manifest names. ORDER: only after this leader wrote a manifest. From then on theirs are
    /// refused, and what they upload cannot come to be named.
    async fn sweep(&mut self, cx: &Context, replica: &Replica) -> Result<(), WorkError> {
        let Some(manifest) =
            self.manifest.as_ref().filter(|manifest| manifest.writer.leader_epoch == self.epoch)
        else {
            return Ok(());
        };
        if std::mem::replace(&mut self.is_swept, true) {
            return Ok(());
        }
        let (store, prefix) = (cx.tier.store(), cx.tier.prefix());
        let all = format!("{prefix}{}", partition_prefix(replica.topic_id().0, replica.partition()));
        let unused = manifest.unused().iter().map(|unused| &unused.segment);
        let named: std::collections::HashSet<SegmentKey> =
            manifest.segments().iter().chain(unused).map(|segment| manifest.key_of(segment)).collect();
        let mut after: Option<String> = None;
        loop {
            let page = store.list(&all, after.as_deref()).await?;
            let keys =
                page.objects.iter().filter_map(|object| SegmentKey::parse(object.key.strip_prefix(prefix)?));
            let left: Vec<SegmentKey> =
                keys.filter(|key| key.leader_epoch < self.epoch && !named.contains(key)).collect();
            if !left.is_empty() {
                tracing::info!(topic = %replica.topic(), partition = replica.partition(), objects = left.len(), "objects that older leaders left are removed");
                delete(cx, &left).await?;
            }
            match page.objects.into_iter().next_back().filter(|_| page.is_cut) {
                Some(last) => after = Some(last.key),
                None => return Ok(()),
            }
        }
    }

    /// The topic is no longer tiered, and is not to leave anything there.
    async fn leave_tier(&mut self, cx: &Context, replica: &Arc<Replica>) -> Result<(), WorkError> {
        let Some(manifest) = self.manifest.clone() else { return Ok(()) };
        let local_start = replica.with_log(self.epoch, |log| log.local_start_offset())?;
        if local_start > replica.log_start_offset() {
            replica.delete_records(local_start.min(replica.high_watermark()))?;
        }
        if !manifest.segments().is_empty() {
            let mut draft = self.next(cx, replica);
            draft.truncate_to(Offset(0), clock::now());
            // ORDER: said before it is so. If the topic is switched back, nobody takes records for tiered that no longer are.
            let item = ReportTierItem {
                manifest: draft.number,
                end_offset: draft.log_start_offset.0,
                ..self.report_item(replica)
            };
            match reports::submit(&cx.replicas, vec![item]).await {
                Some(again) if again.is_empty() => {}
                _ => return Err(WorkError::NotReported),
            }
            self.draft = Some(draft);
            return self.commit(cx, replica).await;
        }
        self.shrink(cx, replica).await
    }
}

async fn delete(cx: &Context, keys: &[SegmentKey]) -> Result<(), WorkError> {
    for keys in keys.chunks(PAGE_KEYS_MAX) {
        let names: Vec<String> = keys.iter().map(|key| format!("{}{key}", cx.tier.prefix())).collect();
        if let Err(error) = cx.tier.store().delete(&names).await {
            cx.metrics.delete_failures.inc();
            return Err(error.into());
        }
        cx.metrics.deleted_objects.inc_by(names.len() as u64);
    }
    Ok(())
}

/// Waits until the rate allows the next copy.
async fn throttle(cx: &Context, bytes: u64) {
    while let Room::NoneUntil(time) = cx.rate.room(Instant::now()) {
        // The rate may change meanwhile.
        tokio::time::sleep_until(time.min(Instant::now() + Duration::from_secs(1))).await;
    }
    cx.rate.spend(usize::try_from(bytes).unwrap_or(usize::MAX), Instant::now());
}

/// What the object says of itself at its end.
fn footer(content: &Content) -> Result<Footer, WorkError> {
    let position = content.len().saturating_sub(FOOTER_BYTES as u64);
    let tail = content
        .read(position, FOOTER_BYTES)
        .map_err(|source| StoreError::Content { key: "of a segment".to_owned(), source })?;
    Ok(Footer::decode(&tail, content.len())?)
}
