//! Writes lines of its input as records of a topic into a table on disk, as the committer of a broker would, for tests that
//! then read the table with engines of others.
//!
//!   lake_writer DIRECTORY TABLE NOW_MS PARTITIONS LINES_PER_COMMIT [maintain]
//!
//! Line n of all lines ever written goes to partition n mod PARTITIONS, a second after the one before it, on days that end at NOW_MS.
//! Prints where the metadata is, and what maintenance did.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

use futures::executor::block_on;
use ottla_lake::catalog::TableName;
use ottla_lake::convert::{Converter, Mode, Options, Quarantine};
use ottla_lake::data_file::DataFile;
use ottla_lake::file_catalog::FileCatalog;
use ottla_lake::record::Record;
use ottla_lake::schema::TableSchema;
use ottla_lake::table::{Advance, Append, Limits, Origin, Partitioning, Scratch, Table, TableAt, TableError};
use ottla_lake::warehouse::Warehouse;
use ottla_storage::batch::{LeaderEpoch, Offset, TimestampMs};
use ottla_storage::disk::Disk;
use ottla_storage::tiering::directory::DirectoryStore;

struct Arguments {
    directory: PathBuf,
    table: String,
    now: TimestampMs,
    partitions: i64,
    lines_per_commit: usize,
    maintains: bool,
}

fn arguments() -> Option<Arguments> {
    let mut arguments = std::env::args().skip(1);
    Some(Arguments {
        directory: arguments.next()?.into(),
        table: arguments.next()?,
        now: TimestampMs(arguments.next()?.parse().ok()?),
        partitions: arguments.next()?.parse().ok()?,
        lines_per_commit: arguments.next()?.parse().ok()?,
        maintains: arguments.next().is_some_and(|word| word == "maintain"),
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = arguments().ok_or("see the head of the source for the arguments")?;
    let disk = Disk::real();
    let store = DirectoryStore::open(&disk, &arguments.directory, "writer", Arc::new(|work| work()))?;
    let url = format!("file://{}", arguments.directory.display());
    let warehouse = Arc::new(Warehouse::new(Arc::new(store), &url, ""));
    let catalog = Arc::new(FileCatalog::new(warehouse.clone()));
    let name = TableName { database: "test".to_owned(), table: arguments.table.clone() };
    let at = TableAt { warehouse, catalog, name };
    let lines: Vec<Vec<u8>> = std::io::stdin().lock().split(b'\n').collect::<Result<_, _>>()?;
    block_on(async {
        let mut table = open(&at, arguments.now).await?;
        let mut quarantine = open(&at.quarantine(), arguments.now).await?;
        let written: i64 = table.next_offsets(&origin())?.values().map(|offset| offset.0).sum();
        let mut number = written;
        for lines in lines.chunks(arguments.lines_per_commit) {
            number = commit(&mut table, &mut quarantine, &arguments, lines, number).await?;
        }
        if arguments.maintains {
            let path = arguments.directory.join(".uploads").join("joined");
            let scratch = Scratch::new(disk.clone(), path);
            println!("{:?}", table.maintain(&Limits::default(), &scratch, arguments.now).await?);
        }
        println!("{}", table.metadata_location());
        Ok(())
    })
}

fn origin() -> Origin {
    Origin { cluster_id: "cluster".to_owned(), topic_id: "topic".to_owned() }
}

async fn open(at: &TableAt, now: TimestampMs) -> Result<Table, TableError> {
    match at.load().await? {
        Some(table) => Ok(table),
        None => at.create(Partitioning::Day, now).await,
    }
}

async fn commit(
    table: &mut Table,
    quarantine: &mut Table,
    arguments: &Arguments,
    lines: &[Vec<u8>],
    first: i64,
) -> Result<i64, Box<dyn std::error::Error>> {
    let options = Options {
        mode: Mode::Infer,
        is_by_day: true,
        zstd_level: 1,
        bytes_max: 256 << 20,
        quarantine: Quarantine {
            schema: quarantine.schema()?.for_quarantine(),
            next: quarantine.next_offsets(&origin())?,
        },
    };
    let last_id = table.metadata().last_column_id();
    let mut converter = Converter::new(table.schema()?, last_id, options);
    let mut next = table.next_offsets(&origin())?;
    let began = next.clone();
    for (number, line) in (first..).zip(lines) {
        let partition = (number % arguments.partitions) as i32;
        let offset = next.entry(partition).or_insert(Offset(0));
        let header: &[(&str, Option<&[u8]>)] = &[("source", Some(b"test"))];
        converter.push(&Record {
            partition,
            offset: *offset,
            timestamp: TimestampMs(arguments.now.0 - 200_000_000 + number * 1000),
            key: Some(format!("key-{number}").as_bytes()),
            value: (!line.is_empty()).then_some(line),
            headers: header,
        });
        offset.0 += 1;
    }
    let converted = converter.finish()?;
    let advance = |began: &BTreeMap<i32, Offset>| -> BTreeMap<i32, Advance> {
        let moved = next.iter().filter(|(partition, to)| began.get(partition) != Some(to));
        moved
            .map(|(partition, to)| (*partition, Advance { from: began.get(partition).copied(), to: *to }))
            .collect()
    };
    if !converted.quarantine.is_empty() {
        let advance = advance(&quarantine.next_offsets(&origin())?);
        let schema = quarantine.schema()?.for_quarantine();
        append(quarantine, &advance, &schema, converted.quarantine, arguments.now).await?;
    }
    append(table, &advance(&began), &converted.schema, converted.files, arguments.now).await?;
    Ok(first + lines.len() as i64)
}

async fn append(
    table: &mut Table,
    advance: &BTreeMap<i32, Advance>,
    schema: &TableSchema,
    files: Vec<DataFile>,
    now: TimestampMs,
) -> Result<(), TableError> {
    let mut staged = Vec::new();
    for file in files {
        staged.push(table.stage(file, LeaderEpoch(0), now).await?);
    }
    table.append(&Append { origin: &origin(), advance, schema, files: &staged }, now).await?;
    Ok(())
}
