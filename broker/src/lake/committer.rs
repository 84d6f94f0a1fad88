//! One topic's table: reads, converts, stores files, commits.
//!
//! A turn ends every `ottla.lake.lag.ms`. Within it files are stored whenever enough was read for one, so that memory is bounded
//! however much comes; at its end all of them become part of the table in one commit, which says up to which offset of each
//! partition the table goes from then on. After a restart, a change of leaders or any error that another try does not mend, the
//! committer begins again from what the table says.
//!
//! The quarantine is a table of its own, committed before. Should the second commit not happen, the same records come again; what
//! its quarantine has already is left out then.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ottla_batch::{LeaderEpoch, Offset};
use ottla_lake::convert::{Converted, Mode, Options, Quarantine};
use ottla_lake::data_file::DataFile;
use ottla_lake::json_schema::JsonSchema;
use ottla_lake::schema::TableSchema;
use ottla_lake::table::{
    Advance, Append, Appended, Origin, Partitioning, StagedFile, Table, TableAt, TableError,
};
use ottla_raft::TopicId;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::conversion::{Conversion, ConversionError};
use super::counters::TableCounters;
use super::lag::Lag;
use super::maintenance::Maintenance;
use super::reading::{Fetched, Reading};
use super::{Assignment, Context};
use crate::clock;
use crate::config::LakeSchema;

/// What decides about a new table's columns is waited for so long after its first record.
const SAMPLE_MAX: Duration = Duration::from_secs(5);
/// Between attempts, doubling.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
const ZSTD_LEVEL: i32 = 1;

#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    #[error("a thread that converted records ended: {0}")]
    Thread(#[from] JoinError),
    #[error("ottla.lake.json.schema: {0}")]
    JsonSchema(#[from] ottla_lake::json_schema::JsonSchemaError),
}

pub struct Committer {
    context: Arc<Context>,
    topic: TopicId,
    assignment: Assignment,
    at: TableAt,
    origin: Origin,
    counters: TableCounters,
    lag: Lag,
}

/// What goes on from turn to turn as long as nothing fails.
struct State {
    table: Side,
    quarantine: Side,
    /// With the columns of files that are stored but not committed.
    schema: TableSchema,
    quarantine_schema: TableSchema,
    reading: Reading,
    /// Behind what was converted.
    converted: BTreeMap<i32, Offset>,
}

/// One of the two tables.
struct Side {
    at: TableAt,
    /// None until there is something to put into it.
    table: Option<Table>,
    /// What the table says.
    committed: BTreeMap<i32, Offset>,
    staged: Vec<StagedFile>,
}

impl Side {
    async fn load(at: TableAt, origin: &Origin) -> Result<Side, TableError> {
        let table = at.load().await?;
        let committed = match &table {
            Some(table) => table.next_offsets(origin)?,
            None => BTreeMap::new(),
        };
        Ok(Side { at, table, committed, staged: Vec::new() })
    }
}

impl Committer {
    pub fn new(context: Arc<Context>, topic: TopicId, assignment: Assignment) -> Committer {
        let at = context.tables.at(&assignment.table.table);
        let cluster_id = context.metadata.image().cluster_id.to_string();
        let origin = Origin { cluster_id, topic_id: topic.to_string() };
        let counters = context.counters.of(&assignment);
        let lag = Lag::new(counters.clone());
        Committer { context, topic, assignment, at, origin, counters, lag }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let maintenance = Maintenance {
            context: &self.context,
            counters: &self.counters,
            table: &self.assignment.table,
            at: &self.at,
        };
        futures::join!(self.commit_for_ever(), maintenance.run(), self.lag.run(&self.context, self.topic));
    }

    async fn commit_for_ever(&self) {
        let mut pause = PAUSE_MIN;
        let mut said = String::new();
        loop {
            let begin = Instant::now();
            let Err(error) = self.work().await;
            self.on_error();
            if begin.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            // Each reason is said once, however long it lasts; the metrics say that it does.
            let error = error.to_string();
            if error != said {
                tracing::warn!(topic = %self.assignment.topic, error, "the topic's table waits; nothing is lost");
                said = error;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    async fn work(&self) -> Result<Infallible, CommitError> {
        let table = Side::load(self.at.clone(), &self.origin).await?;
        let quarantine = Side::load(self.at.quarantine(), &self.origin).await?;
        self.lag.on_loaded(&table.committed);
        let mut schema = match &table.table {
            Some(table) => table.schema()?,
            None => TableSchema::of_records(),
        };
        if let LakeSchema::Json(text) = &self.assignment.table.schema {
            JsonSchema::parse(text)?.add_to(&mut schema);
        }
        let quarantine_schema = match &quarantine.table {
            Some(table) => table.schema()?.for_quarantine(),
            None => TableSchema::of_quarantine(),
        };
        let positions = table.committed.iter().map(|(partition, offset)| (*partition, offset.0)).collect();
        let reading = Reading::new(
            Arc::clone(&self.context.config),
            self.context.metadata.clone(),
            self.topic,
            &self.assignment.topic,
            positions,
        );
        let converted = table.committed.clone();
        let mut state = State { table, quarantine, schema, quarantine_schema, reading, converted };
        let mut turn_ends = Instant::now() + self.assignment.table.lag;
        loop {
            self.take_turn(&mut state, turn_ends).await?;
            // A commit that took long is not followed by one of next to nothing.
            let lag = self.assignment.table.lag;
            turn_ends = (turn_ends + lag).max(Instant::now() + lag / 2);
        }
    }

    /// Reads and stores until the turn ends, then commits.
    async fn take_turn(&self, state: &mut State, ends: Instant) -> Result<(), CommitError> {
        let mut conversion = self.conversion(state);
        let mut sample_ends = None;
        let mut records = 0;
        loop {
            let wake_at = sample_ends.filter(|_| conversion.is_sampling()).unwrap_or(ends).min(ends);
            let fetched = tokio::time::timeout_at(wake_at, state.reading.next()).await;
            self.counters.on_gap(state.reading.take_gap());
            match fetched {
                Ok(fetched) => {
                    let (partition, next_offset) = (fetched.partition, Offset(fetched.next_offset));
                    conversion = self.convert(conversion, fetched).await?;
                    state.converted.insert(partition, next_offset);
                    sample_ends.get_or_insert_with(|| Instant::now() + SAMPLE_MAX);
                }
                Err(_) if Instant::now() < ends => conversion.end_sampling(),
                Err(_) => {}
            }
            self.lag.on_read(state.reading.ends(), conversion.oldest_timestamp_ms());
            let is_over = Instant::now() >= ends;
            if is_over || conversion.is_full() {
                records += conversion.records();
                self.store(state, conversion).await?;
                conversion = self.conversion(state);
            }
            if is_over {
                break;
            }
        }
        if records > 0 {
            self.commit(state).await?;
        }
        self.lag.on_turn_end(&state.table.committed, state.reading.ends());
        Ok(())
    }

    fn conversion(&self, state: &State) -> Conversion {
        let options = Options {
            mode: match self.assignment.table.schema {
                LakeSchema::Infer => Mode::Infer,
                LakeSchema::Json(_) => Mode::Fixed,
                LakeSchema::Raw => Mode::Raw,
            },
            is_by_day: self.assignment.table.is_by_day,
            zstd_level: ZSTD_LEVEL,
            bytes_max: self.context.bytes_max(),
            quarantine: Quarantine {
                schema: state.quarantine_schema.clone(),
                next: state.quarantine.committed.clone(),
            },
        };
        Conversion::new(state.schema.clone(), state.schema.last_field_id(), options)
    }

    /// On a thread that may compute; one of this broker at a time.
    async fn convert(&self, mut conversion: Conversion, fetched: Fetched) -> Result<Conversion, CommitError> {
        let _permit = self.context.converting.acquire().await.expect("nobody closes it");
        let work = move || conversion.push(&fetched).map(|()| conversion);
        Ok(self.context.background.run(work).await??)
    }

    /// Finishes files and stores them; the table doesn't know of them yet.
    async fn store(&self, state: &mut State, conversion: Conversion) -> Result<(), CommitError> {
        if conversion.is_empty() {
            return Ok(());
        }
        let converted = {
            let _permit = self.context.converting.acquire().await.expect("nobody closes it");
            self.context.background.run(move || conversion.finish()).await??
        };
        let Converted { schema, files, quarantine } = converted;
        self.stage(&mut state.table, files).await?;
        self.stage(&mut state.quarantine, quarantine).await?;
        state.schema = schema;
        Ok(())
    }

    async fn stage(&self, side: &mut Side, files: Vec<DataFile>) -> Result<(), CommitError> {
        if files.is_empty() {
            return Ok(());
        }
        if side.table.is_none() {
            side.table = Some(self.create(&side.at).await?);
        }
        let Some(table) = &side.table else { return Ok(()) };
        for file in files {
            self.counters.on_file(&file, side.at.name != self.at.name);
            let staged = self.stage_one(table, file).await?;
            side.staged.push(staged);
        }
        Ok(())
    }

    async fn create(&self, at: &TableAt) -> Result<Table, TableError> {
        let partitioning = match self.assignment.table.is_by_day {
            true => Partitioning::Day,
            false => Partitioning::None,
        };
        let table = at.create(partitioning, clock::now()).await?;
        tracing::info!(topic = %self.assignment.topic, table = %at.name, "made the table");
        Ok(table)
    }

    async fn commit(&self, state: &mut State) -> Result<(), CommitError> {
        let State { table, quarantine, schema, quarantine_schema, converted, .. } = state;
        if !quarantine.staged.is_empty() {
            self.append(quarantine, converted, quarantine_schema).await?;
        }
        if table.table.is_none() {
            // Nothing but what went to the quarantine so far.
            table.table = Some(self.create(&table.at).await?);
        }
        self.append(table, converted, schema).await
    }

    async fn append(
        &self,
        side: &mut Side,
        converted: &BTreeMap<i32, Offset>,
        schema: &TableSchema,
    ) -> Result<(), CommitError> {
        let Some(table) = &mut side.table else { return Ok(()) };
        let advance: BTreeMap<i32, Advance> = converted
            .iter()
            .map(|(partition, to)| {
                (*partition, Advance { from: side.committed.get(partition).copied(), to: *to })
            })
            .filter(|(_, advance)| advance.from.is_none_or(|from| from < advance.to))
            .collect();
        let append = Append { origin: &self.origin, advance: &advance, schema, files: &side.staged };
        let mut pause = PAUSE_MIN;
        let Appended { retries } = loop {
            match table.append(&append, clock::now()).await {
                Ok(appended) => break appended,
                Err(error) if error.is_passing() => {
                    self.on_error();
                    tracing::debug!(table = %side.at.name, %error, "a commit is tried again");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        };
        self.counters.on_commit(retries);
        side.committed.extend(advance.iter().map(|(partition, advance)| (*partition, advance.to)));
        side.staged.clear();
        Ok(())
    }

    /// Again and again as long as the store is away.
    async fn stage_one(&self, table: &Table, file: DataFile) -> Result<StagedFile, TableError> {
        let epoch = LeaderEpoch(self.assignment.leader_epoch.0);
        let mut pause = PAUSE_MIN;
        loop {
            match table.stage(file.clone(), epoch, clock::now()).await {
                Err(error) if error.is_passing() => {
                    self.on_error();
                    tracing::debug!(table = %self.at.name, %error, "a file of the table is stored again");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                staged => return staged,
            }
        }
    }

    fn on_error(&self) {
        self.counters.on_error();
        self.lag.on_wait();
    }
}
