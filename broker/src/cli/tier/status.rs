//! `ottla tier status`: a row for each partition that has something in the tier, or should.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};

use futures::{StreamExt, TryStreamExt, stream};
use ottla_clients::admin::{self, OffsetSpec, ResourceType};
use ottla_clients::cli::ConnectArgs;
use ottla_clients::cli::outcome::CliError;
use ottla_clients::cli::table::Table;
use ottla_clients::cluster::Cluster;
use ottla_storage::tiering::manifest::{self, Manifest};

use super::{NodeArgs, failed, partitions};
use crate::clock;

/// Manifests that are read at the same time.
const MANIFESTS_IN_FLIGHT: usize = 16;

type Partition = (String, i32);

pub(super) async fn run(node: &NodeArgs, connect: Option<&ConnectArgs>) -> Result<(), CliError> {
    let store = node.store().await?;
    let found = partitions(&store).await.map_err(failed)?;
    let manifests: Vec<Option<Manifest>> = stream::iter(found)
        .map(|(topic, partition)| manifest::load(&*store.store, &store.prefix, topic, partition))
        .buffered(MANIFESTS_IN_FLIGHT)
        .try_collect()
        .await
        .map_err(failed)?;
    // Of a topic that was deleted and created again two ids may be there: each has its rows.
    let mut rows: BTreeMap<(Partition, Option<uuid::Uuid>), Option<Manifest>> = BTreeMap::new();
    for manifest in manifests.into_iter().flatten() {
        let partition = (manifest.topic.clone(), manifest.partition);
        rows.insert((partition, Some(manifest.topic_id)), Some(manifest));
    }
    let ends = match connect {
        Some(connect) => ends(&connect.cluster().await?).await?,
        None => HashMap::new(),
    };
    for partition in ends.keys() {
        if !rows.keys().any(|(known, _)| known == partition) {
            rows.insert((partition.clone(), None), None);
        }
    }
    let now = clock::now();
    let mut table = Table::new(&["TOPIC", "PARTITION", "START", "END", "LAG", "SECONDS", "FILES", "BYTES"]);
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for (((topic, partition), _), manifest) in &rows {
        let end = manifest.as_ref().and_then(Manifest::end_offset).map(|end| end.0);
        let start = manifest.as_ref().map(|manifest| manifest.log_start_offset.0);
        let lag = ends
            .get(&(topic.clone(), *partition))
            .map(|(log_start, log_end)| log_end - end.unwrap_or(*log_start).min(*log_end));
        // How old the newest record in the tier is, while there are newer ones.
        let newest = manifest.as_ref().and_then(|manifest| manifest.segments().last()?.max_timestamp);
        let seconds = match (lag, newest) {
            (Some(0), _) => Some(0),
            (Some(_), Some(newest)) => Some((now.0 - newest.0).max(0) / 1000),
            _ => None,
        };
        table.row(vec![
            topic.clone(),
            partition.to_string(),
            shown(start.map(|start| start.to_string())),
            shown(end.map(|end| end.to_string())),
            shown(lag.map(|lag| lag.to_string())),
            shown(seconds.map(|seconds: i64| seconds.to_string())),
            manifest.as_ref().map_or(0, |manifest| manifest.segments().len()).to_string(),
            manifest.as_ref().map_or(0, Manifest::size_in_bytes).to_string(),
        ]);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    table.write(&mut out)?;
    Ok(out.flush()?)
}

/// Log start and high watermark of each partition of a topic that has a tier.
async fn ends(cluster: &Cluster) -> Result<HashMap<Partition, (i64, i64)>, CliError> {
    let mut tiered: Vec<Partition> = Vec::new();
    for topic in cluster.topics().await? {
        let configs = admin::describe_configs(cluster, ResourceType::Topic, &topic.name, false).await?;
        let has_tier = configs
            .iter()
            .any(|config| config.name == "remote.storage.enable" && config.value.as_deref() == Some("true"));
        if has_tier {
            tiered.extend(topic.partitions.iter().map(|partition| (topic.name.clone(), partition.index)));
        }
    }
    let asked = async |spec| {
        let wanted: Vec<_> = tiered.iter().map(|partition| (partition.clone(), spec)).collect();
        admin::list_offsets(cluster, &wanted).await
    };
    let (starts, ends) = (asked(OffsetSpec::Earliest).await?, asked(OffsetSpec::Latest).await?);
    let both = tiered.into_iter().filter_map(|partition| {
        let (start, end) = ((*starts.get(&partition)?)?, (*ends.get(&partition)?)?);
        Some((partition, (start, end)))
    });
    Ok(both.collect())
}
