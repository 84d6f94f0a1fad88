//! Topics as tables: what commits the records of topics with `ottla.lake.enable` to their Iceberg tables.
//!
//! - [`Lake`]: one [`committer`] for each such topic whose partition 0 this broker leads, as the metadata says it.
//! - [`reading`]: committed records of all partitions, by Fetch from their leaders, this broker among them: so that what lies in the
//!   tier, transactions and changes of leaders need no second path.
//! - [`conversion`]: records to files, off the runtime's workers.
//! - [`maintenance`]: compaction, retention and the sweeping of what belongs to no snapshot, beside the commits.
//! - [`counters`]: what each table counts; [`lag`]: how far it is behind, also while nothing can be committed.
//! - [`Tables`]: where tables lie, and their catalog; `catalog_metrics`: what that is asked for.
//!
//! Nothing of this is in the way of a produce: it reads as any consumer does. That each record is in its table once does not rest on
//! there being one committer, but on the offsets in the table (`ottla_lake::table`); one is only quicker than several.

mod catalog;
mod catalog_metrics;
mod committer;
mod conversion;
mod counters;
mod lag;
mod maintenance;
mod reading;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ottla_lake::table::Scratch;
use ottla_raft::{BrokerId, ConfigResourceType, Image, LeaderEpoch, Metadata, TopicId};
use ottla_storage::disk::Disk;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::{LakeTopic, NodeConfig};
use crate::metrics::Metrics;
use crate::threads::Background;
use crate::tier::open::TierStore;
use committer::Committer;
use counters::Counters;
pub use tables::Tables;

/// Records in memory on their way into all tables. One table alone makes files of some 30 MiB of it.
const BYTES_MAX: usize = 256 << 20;
const TABLE_BYTES_MIN: usize = 8 << 20;
/// In the first log directory; no topic has this name. What a crash leaves of it is written over.
const SCRATCH: &str = "ottla-lake.tmp";
/// Metadata changes that come within it are looked at together.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// All committers of this broker.
pub struct Lake {
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What all committers of a broker share.
struct Context {
    config: Arc<NodeConfig>,
    metadata: Metadata,
    tables: Tables,
    counters: Counters,
    /// Conversions at the same time: one, so that they leave the other cores to those who wait for an answer.
    converting: Semaphore,
    /// Tables that are maintained at the same time: one.
    maintaining: Semaphore,
    /// For both.
    background: Background,
    scratch: Scratch,
    committers: AtomicUsize,
}

impl Context {
    /// How much one committer may hold.
    fn bytes_max(&self) -> usize {
        let committers = self.committers.load(Ordering::Relaxed).max(1);
        (BYTES_MAX / committers).max(TABLE_BYTES_MIN)
    }
}

/// A topic that this broker commits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assignment {
    topic: Arc<str>,
    /// Of partition 0.
    leader_epoch: LeaderEpoch,
    table: LakeTopic,
}

impl Lake {
    /// Needs a tokio runtime.
    pub async fn start(
        config: Arc<NodeConfig>,
        metadata: Metadata,
        store: &TierStore,
        disk: &Disk,
        metrics: &Metrics,
    ) -> Lake {
        let context = Arc::new(Context {
            tables: Tables::open(&config, store).await.counted(metrics),
            scratch: Scratch::new(disk.clone(), config.log_dirs[0].join(SCRATCH)),
            config,
            metadata,
            counters: Counters::register(metrics),
            converting: Semaphore::new(1),
            maintaining: Semaphore::new(1),
            background: Background::new(2),
            committers: AtomicUsize::new(0),
        });
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(run(context, stop.subscribe()));
        Lake { stop, task: Mutex::new(Some(task)) }
    }

    /// Commits nothing any more. What was read and not committed is read again by the next committer.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the tables' committers failed");
        }
    }
}

/// A committer that is dropped stops between two calls of the store. What such a call does is undone or covered by the next commit.
struct Running {
    assignment: Assignment,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(context: Arc<Context>, mut stop: watch::Receiver<bool>) {
    let mut changes = context.metadata.changes();
    let mut running: BTreeMap<TopicId, Running> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let wanted = assignments(&context.config, &context.metadata.image());
        running.retain(|topic, running| {
            let stays = wanted.get(topic) == Some(&running.assignment);
            if !stays {
                context.counters.forget(&running.assignment);
            }
            stays
        });
        context.committers.store(wanted.len(), Ordering::Relaxed);
        for (topic, assignment) in wanted {
            running.entry(topic).or_insert_with(|| {
                tracing::info!(topic = %assignment.topic, table = assignment.table.table, "commits to a table");
                let committer = Committer::new(Arc::clone(&context), topic, assignment.clone());
                Running { assignment, task: tokio::spawn(committer.run()) }
            });
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The topics with tables whose partition 0 this broker leads.
fn assignments(config: &NodeConfig, image: &Image) -> BTreeMap<TopicId, Assignment> {
    let local = BrokerId(config.node_id);
    let names = image.configs.keys().filter(|resource| resource.kind == ConfigResourceType::Topic);
    let assignment = |name: &str| {
        let topic = image.topic_by_name(name)?;
        let first = topic.partition(0).filter(|partition| partition.leader == Some(local))?;
        let table = config.lake_of(image, name)?;
        let assignment =
            Assignment { topic: Arc::clone(&topic.name), leader_epoch: first.leader_epoch, table };
        Some((topic.id, assignment))
    };
    names.filter_map(|resource| assignment(&resource.name)).collect()
}
