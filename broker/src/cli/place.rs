//! The object store of a cluster, as one of its brokers is configured.

use ottla_clients::admin::{self, ResourceType};
use ottla_clients::cli::outcome::CliError;
use ottla_clients::cluster::Cluster;
use ottla_storage::disk::Disk;

use crate::config::NodeConfig;
use crate::tier::open::{TierStore, open_for_command};

/// `overrides` win over what the broker says: another way to the same store, say.
pub async fn config(cluster: &Cluster, overrides: &[(String, String)]) -> Result<NodeConfig, CliError> {
    let broker = cluster.brokers().first().map(|broker| broker.id);
    let broker = broker.ok_or_else(|| CliError::Failed("the cluster has no brokers".to_owned()))?;
    let entries = admin::describe_configs(cluster, ResourceType::Broker, &broker.to_string(), false).await?;
    let of_store = entries.into_iter().filter(|entry| {
        entry.source.is_set()
            && ["ottla.tier.", "ottla.lake."].iter().any(|part| entry.name.starts_with(part))
    });
    let mut values: Vec<(String, String)> =
        of_store.filter_map(|entry| Some((entry.name, entry.value?))).collect();
    values.extend_from_slice(overrides);
    NodeConfig::load(None, &values).map_err(|error| CliError::Usage(error.to_string()))
}

pub async fn open(config: &NodeConfig) -> Result<TierStore, CliError> {
    let tier = config.tier.as_ref();
    let tier = tier.ok_or_else(|| CliError::Usage("the broker has no ottla.tier.url".to_owned()))?;
    open_for_command(tier, &Disk::real()).await.map_err(|error| CliError::Failed(error.to_string()))
}
