//! Iceberg's lists of files. A snapshot has one manifest list, which names its manifests; a manifest names data files (or files
//! of deletes, which others write), each with its status: added or removed in this snapshot, or there before.
//!
//! iceberg's writers write to a storage of their own in memory; the bytes are then put like any object.

use std::sync::Arc;

use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, Manifest, ManifestContentType, ManifestEntry, ManifestFile, ManifestList,
    ManifestListWriter, ManifestStatus, ManifestWriter, ManifestWriterBuilder, PartitionSpec, SchemaRef,
};
use ottla_storage::tiering::store::Condition;

use super::{TableAt, TableError};

/// Manifests read at a time.
const READS_MAX: usize = 8;

/// A file that is in the table, as a manifest has it, with what the manifest leaves to the list.
#[derive(Debug, Clone)]
pub struct LiveFile {
    pub file: DataFile,
    pub snapshot_id: i64,
    pub sequence_number: i64,
    pub file_sequence_number: i64,
}

impl TableAt {
    pub async fn read_list(&self, location: &str) -> Result<Vec<ManifestFile>, TableError> {
        let bytes = self.warehouse.read(location).await.map_err(|error| self.of_store(error))?;
        let list = ManifestList::parse_with_version(&bytes, FormatVersion::V2);
        let list = list.map_err(|error| self.malformed(location, error))?;
        Ok(list.consume_entries().into_iter().collect())
    }

    /// What of a manifest is in the table.
    pub async fn read_live(&self, manifest: &ManifestFile) -> Result<Vec<LiveFile>, TableError> {
        let location = &manifest.manifest_path;
        let bytes = self.warehouse.read(location).await.map_err(|error| self.of_store(error))?;
        let parsed = Manifest::parse_avro(&bytes).map_err(|error| self.malformed(location, error))?;
        let (entries, _) = parsed.into_parts();
        let live = entries.into_iter().filter(|entry| entry.is_alive());
        Ok(live.map(|entry| live_file(Arc::unwrap_or_clone(entry), manifest)).collect())
    }

    /// Of several manifests, in their order. All are in memory at once: for a bounded number of them.
    pub async fn read_live_of(&self, manifests: &[&ManifestFile]) -> Result<Vec<LiveFile>, TableError> {
        // Boxed, or no future that awaits this one is found to be `Send`.
        let read: Vec<_> = manifests.iter().map(|manifest| self.read_live(manifest).boxed()).collect();
        Ok(stream::iter(read).buffered(READS_MAX).try_collect::<Vec<_>>().await?.concat())
    }

    /// Writes a manifest of data files under that name and answers its row of the list.
    pub async fn write_manifest(
        &self,
        location: &str,
        snapshot_id: i64,
        schema: SchemaRef,
        spec: &PartitionSpec,
        fill: impl FnOnce(&mut ManifestWriter) -> iceberg::Result<()>,
    ) -> Result<ManifestFile, TableError> {
        let memory = FileIO::new_with_memory();
        let write = async {
            let output = memory.new_output(location)?;
            let mut writer =
                ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec.clone()).build_v2_data();
            fill(&mut writer)?;
            writer.write_manifest_file().await
        };
        let manifest = write.await.map_err(|error| self.malformed(location, error))?;
        self.put_written(&memory, location).await?;
        Ok(manifest)
    }

    pub async fn write_list(
        &self,
        location: &str,
        snapshot_id: i64,
        parent_id: Option<i64>,
        sequence_number: i64,
        manifests: Vec<ManifestFile>,
    ) -> Result<(), TableError> {
        let memory = FileIO::new_with_memory();
        let write = async {
            let output = memory.new_output(location)?.writer().await?;
            let mut list = ManifestListWriter::v2(output, snapshot_id, parent_id, sequence_number);
            list.add_manifests(manifests.into_iter())?;
            list.close().await
        };
        write.await.map_err(|error| self.malformed(location, error))?;
        self.put_written(&memory, location).await
    }

    async fn put_written(&self, memory: &FileIO, location: &str) -> Result<(), TableError> {
        let read = async { memory.new_input(location)?.read().await };
        let bytes = read.await.map_err(|error| self.malformed(location, error))?;
        let put = self.warehouse.write(location, bytes.into(), Condition::None).await;
        put.map_err(|error| self.of_store(error))
    }
}

/// An entry without these numbers has those of its manifest (Iceberg's "inheritance").
fn live_file(entry: ManifestEntry, manifest: &ManifestFile) -> LiveFile {
    // A manifest that was there before sequence numbers were has 0, for which all its entries stand.
    let inherits = entry.status == ManifestStatus::Added || manifest.sequence_number == 0;
    let inherited = if inherits { manifest.sequence_number } else { 0 };
    LiveFile {
        snapshot_id: entry.snapshot_id.unwrap_or(manifest.added_snapshot_id),
        sequence_number: entry.sequence_number.unwrap_or(inherited),
        file_sequence_number: entry.file_sequence_number.unwrap_or(inherited),
        file: entry.data_file,
    }
}

pub fn is_of_deletes(manifest: &ManifestFile) -> bool {
    manifest.content == ManifestContentType::Deletes
}

pub fn has_live_files(manifest: &ManifestFile) -> bool {
    manifest.has_added_files() || manifest.has_existing_files()
}

impl LiveFile {
    pub fn write_existing(self, writer: &mut ManifestWriter) -> iceberg::Result<()> {
        let file_sequence_number = Some(self.file_sequence_number);
        writer.add_existing_file(self.file, self.snapshot_id, self.sequence_number, file_sequence_number)
    }

    pub fn write_removed(self, writer: &mut ManifestWriter) -> iceberg::Result<()> {
        writer.add_delete_file(self.file, self.sequence_number, Some(self.file_sequence_number))
    }
}
