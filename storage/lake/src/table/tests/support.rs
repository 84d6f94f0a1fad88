//! A store in memory that can be told to fail, and tables of rows that are easy to count.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ottla_storage::batch::{LeaderEpoch, Offset, TimestampMs};
use ottla_storage::disk::{Disk, SimulatedDisk};
use ottla_storage::tiering::directory::DirectoryStore;
use ottla_storage::tiering::store::{
    Answer, ByteRange, Condition, Content, ObjectStore, Page, Piece, StoreError,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::catalog::TableName;
use crate::data_file::{ColumnMetrics, DataFile, OffsetRange};
use crate::file_catalog::FileCatalog;
use crate::table::{Advance, Append, Appended, Origin, Partitioning, StagedFile, Table, TableAt, TableError};
use crate::warehouse::Warehouse;

pub const NOW: TimestampMs = TimestampMs(1_763_712_000_000);

pub fn origin() -> Origin {
    Origin { cluster_id: "MkU3OEVBNTcwNTJENDM2Qk".to_owned(), topic_id: "Fh2-QgQQqyTvXyFbcYQ1wA".to_owned() }
}

/// What happens to a request.
#[derive(Clone, Copy)]
pub struct Odds {
    /// It fails and has no effect.
    pub fails: f64,
    /// Of a put: it happens, and its answer is lost.
    pub loses_answer: f64,
    /// Of a put: it is answered as failed, and happens later.
    pub happens_late: f64,
}

impl Odds {
    pub const NONE: Odds = Odds { fails: 0.0, loses_answer: 0.0, happens_late: 0.0 };
}

/// What goes through it may fail, and always lets others go first now and then.
pub struct FaultyStore {
    inner: DirectoryStore,
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    odds: Odds,
    late: Vec<(String, Content, Condition)>,
    puts: u64,
}

impl FaultyStore {
    pub fn new(seed: u64) -> Arc<FaultyStore> {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/bucket")).unwrap();
        let inner = DirectoryStore::open(&disk, Path::new("/bucket"), "1", Arc::new(|work| work())).unwrap();
        let random = StdRng::seed_from_u64(seed);
        let state = State { random, odds: Odds::NONE, late: Vec::new(), puts: 0 };
        Arc::new(FaultyStore { inner, state: Mutex::new(state) })
    }

    pub fn set_odds(&self, odds: Odds) {
        self.state.lock().unwrap().odds = odds;
    }

    pub fn puts(&self) -> u64 {
        self.state.lock().unwrap().puts
    }

    /// What was to happen late does so now.
    pub async fn settle(&self) {
        loop {
            let Some((key, content, condition)) = self.state.lock().unwrap().late.pop() else { return };
            let _ = self.inner.put(&key, content, condition).await;
        }
    }

    fn chance(&self, of: impl Fn(&Odds) -> f64) -> bool {
        let mut state = self.state.lock().unwrap();
        let probability = of(&state.odds);
        probability > 0.0 && state.random.random_bool(probability)
    }

    async fn before(&self) -> Result<(), StoreError> {
        let turns = self.state.lock().unwrap().random.random_range(0..4);
        for _ in 0..turns {
            pass_turn().await;
        }
        let late = {
            let mut state = self.state.lock().unwrap();
            let is_due = !state.late.is_empty() && state.random.random_bool(0.3);
            is_due.then(|| state.late.remove(0))
        };
        if let Some((key, content, condition)) = late {
            let _ = self.inner.put(&key, content, condition).await;
        }
        match self.chance(|odds| odds.fails) {
            true => Err(StoreError::Unavailable("planned".to_owned())),
            false => Ok(()),
        }
    }
}

/// Lets the other futures of the same executor go on.
pub async fn pass_turn() {
    let mut passed = false;
    std::future::poll_fn(|context| {
        if passed {
            return std::task::Poll::Ready(());
        }
        passed = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

impl ObjectStore for FaultyStore {
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()> {
        Box::pin(async move {
            self.before().await?;
            self.state.lock().unwrap().puts += 1;
            if self.chance(|odds| odds.happens_late) {
                self.state.lock().unwrap().late.push((key.to_owned(), content, condition));
                return Err(StoreError::Unavailable("later".to_owned()));
            }
            self.inner.put(key, content, condition).await?;
            match self.chance(|odds| odds.loses_answer) {
                true => Err(StoreError::Unavailable("its answer was lost".to_owned())),
                false => Ok(()),
            }
        })
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        Box::pin(async move {
            self.before().await?;
            self.inner.get(key, range).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        Box::pin(async move {
            self.before().await?;
            self.inner.list(prefix, after).await
        })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move {
            self.before().await?;
            self.inner.delete(keys).await
        })
    }
}

pub fn table_at(store: &Arc<FaultyStore>) -> TableAt {
    let warehouse = Arc::new(Warehouse::new(store.clone(), "file:///bucket", "ottla"));
    let catalog = Arc::new(FileCatalog::new(warehouse.clone()));
    TableAt { warehouse, catalog, name: TableName { database: "db".to_owned(), table: "orders".to_owned() } }
}

pub async fn created(at: &TableAt, partitioning: Partitioning) -> Table {
    at.create(partitioning, NOW).await.unwrap()
}

/// What counts as a file here: its rows, one in a line.
pub fn file(partition: i32, first: i64, end: i64, day: Option<i32>) -> DataFile {
    let rows: Vec<String> = (first..end).map(|offset| format!("{partition} {offset}\n")).collect();
    DataFile {
        bytes: Bytes::from(rows.concat()),
        day,
        ranges: vec![OffsetRange { partition, first_offset: Offset(first), last_offset: Offset(end - 1) }],
        rows: (end - first) as u64,
        metrics: ColumnMetrics::default(),
    }
}

pub async fn stage(table: &Table, file: DataFile) -> Result<StagedFile, TableError> {
    table.stage(file, LeaderEpoch(0), NOW).await
}

pub fn advance(partition: i32, from: Option<i64>, to: i64) -> BTreeMap<i32, Advance> {
    BTreeMap::from([(partition, Advance { from: from.map(Offset), to: Offset(to) })])
}

/// Offsets `first..end` of partition 0 as one file.
pub async fn append_range(table: &mut Table, first: i64, end: i64) -> Result<Appended, TableError> {
    let staged = stage(table, file(0, first, end, Some(20_000))).await?;
    let schema = table.schema()?;
    let from = (first > 0).then_some(first);
    let append =
        Append { origin: &origin(), advance: &advance(0, from, end), schema: &schema, files: &[staged] };
    table.append(&append, NOW).await
}

/// Partition and offset of all rows that a reader of the newest state sees, in order; and the manifests must say the same.
pub async fn rows(at: &TableAt) -> Vec<(i32, i64)> {
    let table = at.load().await.unwrap().expect("the table");
    rows_of(&table).await
}

pub async fn rows_of(table: &Table) -> Vec<(i32, i64)> {
    let at = table.at();
    let mut rows = Vec::new();
    for manifest in table.manifests().await.unwrap() {
        for live in at.read_live(&manifest).await.unwrap() {
            let bytes = at.warehouse.read(live.file.file_path()).await.unwrap();
            assert_eq!(bytes.len() as u64, live.file.file_size_in_bytes());
            let text = std::str::from_utf8(&bytes).unwrap();
            assert_eq!(text.lines().count() as u64, live.file.record_count());
            rows.extend(text.lines().map(|line| {
                let (partition, offset) = line.split_once(' ').unwrap();
                (partition.parse::<i32>().unwrap(), offset.parse::<i64>().unwrap())
            }));
        }
    }
    rows.sort();
    rows
}

pub fn all_rows(partition: i32, end: i64) -> Vec<(i32, i64)> {
    (0..end).map(|offset| (partition, offset)).collect()
}
