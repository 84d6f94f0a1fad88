//! What is in force: a value that was set at run time for this broker wins over one for all brokers, that over
//! server.properties, that over the default of the table. A topic's own value wins over all of these; without one it
//! takes the value of the broker's key that stands for it (`retention.ms` from `log.retention.ms`, then
//! `log.retention.minutes`, then `log.retention.hours`).
//!
//! A value that does not pass its own check (kept by an older version, say) counts as not set: the next one is taken, so
//! that everything here always finds a value of the right type.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_batch::{Codec, CompressionPolicy, TimestampType};
use ottla_raft::metadata::image::Configs;
use ottla_raft::{BrokerId, ConfigResource, ConfigResourceType, Image};
use ottla_storage::log::{CleanupPolicy, LogConfig};

use super::table::{self, Key, Scope, Unit, Value};
use super::{DynamicConfig, NodeConfig};
use crate::replica::{Durability, Throttled, TopicSettings};

/// Where a value comes from, with DescribeConfigs' numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
    ClientMetrics = 7,
    Group = 8,
}

/// A key of a resource as DescribeConfigs shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub name: String,
    /// `None` also for what must not be shown.
    pub value: Option<String>,
    pub source: Source,
    pub is_read_only: bool,
    pub is_sensitive: bool,
    /// What gives the key its value, the strongest first.
    pub synonyms: Vec<Synonym>,
    /// `None` for keys that nobody declares.
    pub key: Option<&'static Key>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Synonym {
    pub name: String,
    pub value: Option<String>,
    pub source: Source,
}

/// The keys of a broker from all their sources.
#[derive(Clone, Copy)]
pub struct BrokerValues<'a> {
    of_broker: Option<&'a Configs>,
    of_all_brokers: Option<&'a Configs>,
    set: &'a BTreeMap<String, String>,
}

impl<'a> BrokerValues<'a> {
    pub(super) fn without_dynamic(set: &'a BTreeMap<String, String>) -> BrokerValues<'a> {
        BrokerValues { of_broker: None, of_all_brokers: None, set }
    }

    pub fn new(node: &'a NodeConfig, image: &'a Image) -> BrokerValues<'a> {
        BrokerValues {
            of_broker: image.configs_of(&ConfigResource::broker(BrokerId(node.node_id))),
            of_all_brokers: image.configs_of(&ConfigResource::all_brokers()),
            set: &node.set,
        }
    }

    /// All values of one key, the strongest first.
    fn sources(&self, name: &str) -> impl Iterator<Item = (Source, String)> {
        let key = table::find(Scope::Broker, name);
        let given = [
            (
                Source::DynamicBroker,
                self.of_broker.and_then(|configs| configs.get(name)).map(|v| v.to_string()),
            ),
            (
                Source::DynamicDefaultBroker,
                self.of_all_brokers.and_then(|configs| configs.get(name)).map(|v| v.to_string()),
            ),
            (Source::StaticBroker, self.set.get(name).cloned()),
            (Source::Default, key.and_then(|key| key.default.text()).map(str::to_owned)),
        ];
        given.into_iter().filter_map(move |(source, value)| {
            let value = value?;
            key.is_none_or(|key| key.parse(&value).is_ok()).then_some((source, value))
        })
    }

    fn get(&self, name: &str) -> Option<(Source, String)> {
        self.sources(name).next()
    }

    fn value(&self, name: &str) -> Option<Value> {
        let (_, text) = self.get(name)?;
        table::find(Scope::Broker, name)?.parse(&text).ok()
    }

    fn integer(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Integer(number)) => number,
            _ => 0,
        }
    }

    /// `None` for a key that is not declared or has no value.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Some(Value::Integer(number)) => Some(number),
            _ => None,
        }
    }

    fn size(&self, name: &str) -> usize {
        self.integer(name).max(0) as usize
    }

    /// `None` for no limit.
    fn rate(&self, name: &str) -> Option<u64> {
        u64::try_from(self.number(name)?).ok().filter(|rate| *rate < i64::MAX as u64)
    }

    fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.integer(name).max(0) as u64)
    }

    /// The value that the broker gives to a key of a topic or group: of the strongest of its keys that has one.
    fn default_for(&self, key: &Key) -> Option<String> {
        let from_broker = key.broker_keys.iter().find_map(|(name, unit)| {
            let (_, text) = self.get(name)?;
            match unit {
                Unit::Same => Some(text),
                unit => {
                    text.parse::<i64>().ok().map(|n| if n < 0 { n } else { n * unit.millis() }.to_string())
                }
            }
        });
        from_broker.or_else(|| key.default.text().map(str::to_owned))
    }

    /// COMPAT: Kafka lists what the keys of one chain are set to, source by source, and then leaves out everything before
    /// the chain's own name. So `retention.ms` has no synonyms while only `log.retention.hours` is set.
    fn synonyms(&self, name: &str) -> Vec<Synonym> {
        let chain = chain_of(name);
        let mut synonyms = Vec::new();
        for wanted in
            [Source::DynamicBroker, Source::DynamicDefaultBroker, Source::StaticBroker, Source::Default]
        {
            for &name in chain.iter() {
                for (_, value) in self.sources(name).filter(|(source, _)| *source == wanted) {
                    synonyms.push(Synonym { name: name.to_owned(), value: Some(value), source: wanted });
                }
            }
        }
        synonyms.into_iter().skip_while(|synonym| synonym.name != name).collect()
    }
}

/// Broker keys that stand for the same quantity, the strongest first.
fn chain_of(name: &str) -> Vec<&str> {
    const CHAINS: &[&[&str]] = &[
        &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
        &["log.roll.ms", "log.roll.hours"],
        &["log.roll.jitter.ms", "log.roll.jitter.hours"],
        &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
    ];
    match CHAINS.iter().find(|chain| chain.contains(&name)) {
        Some(chain) => chain.to_vec(),
        None => vec![name],
    }
}

/// The configuration of one topic.
pub struct TopicValues<'a> {
    own: Option<&'a Configs>,
    broker: BrokerValues<'a>,
    local: i32,
}

impl<'a> TopicValues<'a> {
    pub fn new(node: &'a NodeConfig, image: &'a Image, topic: &str) -> TopicValues<'a> {
        TopicValues {
            own: image.configs_of(&ConfigResource::topic(topic)),
            broker: BrokerValues::new(node, image),
            local: node.node_id,
        }
    }

    /// A topic that does not exist yet, or whose configuration is about to change.
    pub fn with(node: &'a NodeConfig, image: &'a Image, own: &'a Configs) -> TopicValues<'a> {
        TopicValues { own: Some(own), broker: BrokerValues::new(node, image), local: node.node_id }
    }

    fn text(&self, key: &Key) -> Option<String> {
        self.own
            .and_then(|configs| configs.get(key.name))
            .filter(|text| key.parse(text).is_ok())
            .map(|text| text.to_string())
            .or_else(|| self.broker.default_for(key))
    }

    pub(super) fn value(&self, name: &str) -> Option<Value> {
        let key = table::find(Scope::Topic, name)?;
        key.parse(&self.text(key)?).ok()
    }

    pub(super) fn integer(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Integer(number)) => number,
            _ => 0,
        }
    }

    pub(super) fn word(&self, name: &str) -> String {
        match self.value(name) {
            Some(Value::Text(text)) => text,
            _ => String::new(),
        }
    }

    /// `None` for a negative number.
    fn bound(&self, name: &str) -> Option<i64> {
        Some(self.integer(name)).filter(|number| *number >= 0)
    }

    /// What logs and replicas act on.
    pub fn settings(&self) -> TopicSettings {
        let (cleanup_policy, is_kept) = self.cleanup_policy();
        let compression = match self.word("compression.type").as_str() {
            "uncompressed" => CompressionPolicy::Fixed(Codec::None, 0),
            "gzip" => CompressionPolicy::Fixed(Codec::Gzip, self.integer("compression.gzip.level") as i32),
            "snappy" => CompressionPolicy::Fixed(Codec::Snappy, 0),
            "lz4" => CompressionPolicy::Fixed(Codec::Lz4, self.integer("compression.lz4.level") as i32),
            "zstd" => CompressionPolicy::Fixed(Codec::Zstd, self.integer("compression.zstd.level") as i32),
            _ => CompressionPolicy::Producer,
        };
        let segment_bytes = match self.value("internal.segment.bytes") {
            Some(Value::Integer(bytes)) => bytes,
            _ => self.integer("segment.bytes"),
        };
        let batch_bytes_max = self.integer("max.message.bytes").max(0);
        let log = LogConfig {
            segment_bytes: segment_bytes.clamp(1, i32::MAX.into()) as u32,
            segment_ms: self.integer("segment.ms"),
            segment_jitter_ms: self.integer("segment.jitter.ms"),
            segment_index_bytes: self.integer("segment.index.bytes").max(0) as u32,
            index_interval_bytes: self.integer("index.interval.bytes").max(0) as u32,
            retention_ms: self.bound("retention.ms").filter(|_| !is_kept),
            retention_bytes: self.bound("retention.bytes").filter(|_| !is_kept).map(|bytes| bytes as u64),
            remote_storage: self.is_tiered(),
            remote_copy_disabled: self.flag("remote.log.copy.disable"),
            local_retention_ms: self
                .local_bound("local.retention.ms", "retention.ms", cleanup_policy)
                .filter(|_| !is_kept),
            local_retention_bytes: self
                .local_bound("local.retention.bytes", "retention.bytes", cleanup_policy)
                .filter(|_| !is_kept)
                .map(|bytes| bytes as u64),
            file_delete_delay_ms: self.integer("file.delete.delay.ms"),
            cleanup_policy,
            delete_retention_ms: self.integer("delete.retention.ms"),
            min_compaction_lag_ms: self.integer("min.compaction.lag.ms"),
            max_compaction_lag_ms: self.integer("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: match self.value("min.cleanable.dirty.ratio") {
                Some(Value::Double(ratio)) => ratio,
                _ => 0.5,
            },
            message_bytes_max: batch_bytes_max as u32,
            producer_id_expiration_ms: self.broker.integer("producer.id.expiration.ms"),
            // Kafka shares the buffer among the cleaner's threads.
            dedupe_buffer_bytes: self.broker.size("log.cleaner.dedupe.buffer.size")
                / self.broker.size("log.cleaner.threads").max(1),
            ..LogConfig::default()
        };
        TopicSettings {
            log: Arc::new(log),
            durability: match self.word("ottla.durability").as_str() {
                "memory" => Durability::Memory,
                _ => Durability::Fsync,
            },
            compression,
            timestamp_type: match self.word("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_ms_max: self.integer("message.timestamp.before.max.ms"),
            timestamp_after_ms_max: self.integer("message.timestamp.after.max.ms"),
            batch_bytes_max: batch_bytes_max as usize,
            min_in_sync: self.integer("min.insync.replicas").max(1) as usize,
            throttled_as_leader: self.throttled("leader.replication.throttled.replicas"),
            throttled_as_follower: self.throttled("follower.replication.throttled.replicas"),
            deletes_tier_when_disabled: self.flag("remote.log.delete.on.disable"),
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Boolean(true))
    }

    /// Whether the topic's segments go to the remote tier: it asks for that, and there is one.
    fn is_tiered(&self) -> bool {
        self.flag("remote.storage.enable") && self.is_remote_system_enabled()
    }

    pub(super) fn is_remote_system_enabled(&self) -> bool {
        self.broker.value("remote.log.storage.system.enable") == Some(Value::Boolean(true))
    }

    /// Of what lies in the tier too. -2 is as much as without a tier, which is everything where nothing is deleted by age and size.
    fn local_bound(&self, name: &str, of_whole: &str, policy: CleanupPolicy) -> Option<i64> {
        match self.integer(name) {
            -2 if policy.deletes() => self.bound(of_whole),
            local => Some(local).filter(|local| *local >= 0),
        }
    }

    /// Of a list of `partition:broker`, the partitions of this broker.
    fn throttled(&self, name: &str) -> Throttled {
        let Some(Value::List(items)) = self.value(name) else { return Throttled::None };
        if items.iter().any(|item| item == "*") {
            return Throttled::All;
        }
        let here = items.iter().filter_map(|item| {
            let (partition, broker) = item.split_once(':')?;
            (broker.parse() == Ok(self.local)).then(|| partition.parse().ok())?
        });
        let partitions: Arc<[i32]> = here.collect();
        if partitions.is_empty() { Throttled::None } else { Throttled::Partitions(partitions) }
    }

    /// The policy, and whether nothing is ever removed: Kafka allows an empty `cleanup.policy` for that.
    fn cleanup_policy(&self) -> (CleanupPolicy, bool) {
        let policies = match self.value("cleanup.policy") {
            Some(Value::List(items)) => items,
            _ => Vec::new(),
        };
        let has = |name: &str| policies.iter().any(|policy| policy == name);
        match (has("compact"), has("delete")) {
            (true, true) => (CleanupPolicy::CompactAndDelete, false),
            (true, false) => (CleanupPolicy::Compact, false),
            (false, true) => (CleanupPolicy::Delete, false),
            (false, false) => (CleanupPolicy::Delete, true),
        }
    }

    pub fn entries(&self) -> Vec<Entry> {
        let keys = table::keys_of(Scope::Topic);
        keys.filter_map(|key| resource_entry(key, self.own, &self.broker, Source::Topic)).collect()
    }
}

impl DynamicConfig {
    pub(super) fn of(values: &BrokerValues<'_>) -> DynamicConfig {
        let overrides = match values.value("max.connections.per.ip.overrides") {
            Some(Value::Text(text)) => table::connection_overrides(&text).unwrap_or_default(),
            _ => Vec::new(),
        };
        DynamicConfig {
            connections_max: values.size("max.connections"),
            connections_per_ip_max: values.size("max.connections.per.ip"),
            connections_per_ip_overrides: overrides
                .into_iter()
                .filter_map(|(address, count)| Some((address.parse().ok()?, count)))
                .collect(),
            message_bytes_max: values.size("message.max.bytes"),
            replica_fetchers: values.size("num.replica.fetchers"),
            cleaner_threads: values.size("log.cleaner.threads"),
            cleaner_backoff: values.millis("log.cleaner.backoff.ms"),
            recovery_threads_per_data_dir: values.size("num.recovery.threads.per.data.dir"),
            leader_throttled_rate: values.rate("leader.replication.throttled.rate"),
            follower_throttled_rate: values.rate("follower.replication.throttled.rate"),
            alter_log_dirs_rate: values.rate("replica.alter.log.dirs.io.max.bytes.per.second"),
            remote_fetch_rate: values.rate("remote.log.manager.fetch.max.bytes.per.second"),
            remote_reader_threads: values.size("remote.log.reader.threads"),
            begins_at_last_tiered: values.value("follower.fetch.last.tiered.offset.enable")
                == Some(Value::Boolean(true)),
            remote_fetch_wait_max: values.millis("remote.fetch.max.wait.ms"),
            remote_list_offsets_timeout: values.millis("remote.list.offsets.request.timeout.ms"),
            remote_copy_rate: values.rate("remote.log.manager.copy.max.bytes.per.second"),
            tier_copiers: values.size("remote.log.manager.copier.thread.pool.size"),
        }
    }
}

/// An entry of a topic, group or client metrics subscription; `None` for a hidden key that is not set.
fn resource_entry(
    key: &'static Key,
    own: Option<&Configs>,
    broker: &BrokerValues<'_>,
    source: Source,
) -> Option<Entry> {
    let own = own
        .and_then(|configs| configs.get(key.name))
        .filter(|text| key.parse(text).is_ok())
        .map(|text| text.to_string());
    if key.hidden && own.is_none() {
        return None;
    }
    let mut synonyms = match key.broker_keys.first() {
        Some((name, _)) => broker.synonyms(name),
        None => Vec::new(),
    };
    if let Some(value) = &own {
        let synonym = Synonym { name: key.name.to_owned(), value: Some(value.clone()), source };
        synonyms.insert(0, synonym);
    }
    if key.scope == Scope::Group && key.broker_keys.is_empty() {
        let value = key.default.text().map(str::to_owned);
        synonyms.push(Synonym { name: key.name.to_owned(), value, source: Source::Default });
    }
    Some(Entry {
        name: key.name.to_owned(),
        value: own.or_else(|| broker.default_for(key)),
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        is_read_only: false,
        is_sensitive: false,
        synonyms: if key.scope == Scope::ClientMetrics { Vec::new() } else { synonyms },
        key: Some(key),
    })
}

/// What a key is for a resource that does not set it: from the broker's configuration for topics and groups, from
/// server.properties and the table for a broker.
pub fn inherited(node: &NodeConfig, image: &Image, key: &Key) -> Option<String> {
    match key.scope {
        Scope::Broker => BrokerValues::without_dynamic(&node.set).get(key.name).map(|(_, value)| value),
        Scope::Topic | Scope::Group | Scope::ClientMetrics => BrokerValues::new(node, image).default_for(key),
    }
}

pub fn topic_entries(node: &NodeConfig, image: &Image, topic: &str) -> Vec<Entry> {
    TopicValues::new(node, image, topic).entries()
}

pub fn group_entries(node: &NodeConfig, image: &Image, group: &str) -> Vec<Entry> {
    let own = image.configs_of(&ConfigResource::group(group));
    let broker = BrokerValues::new(node, image);
    table::keys_of(Scope::Group).filter_map(|key| resource_entry(key, own, &broker, Source::Group)).collect()
}

pub fn client_metrics_entries(node: &NodeConfig, image: &Image, name: &str) -> Vec<Entry> {
    let resource = ConfigResource { kind: ConfigResourceType::ClientMetrics, name: name.into() };
    let own = image.configs_of(&resource);
    let broker = BrokerValues::new(node, image);
    table::keys_of(Scope::ClientMetrics)
        .filter_map(|key| resource_entry(key, own, &broker, Source::ClientMetrics))
        .collect()
}

/// Everything that is in force on this broker, keys that nobody declares included.
pub fn broker_entries(node: &NodeConfig, image: &Image) -> Vec<Entry> {
    let values = BrokerValues::new(node, image);
    let declared = table::keys_of(Scope::Broker).filter(|key| !key.hidden).map(|key| key.name);
    let mut names: std::collections::BTreeSet<&str> = declared.collect();
    names.extend(node.set.keys().map(String::as_str));
    for configs in [values.of_broker, values.of_all_brokers].into_iter().flatten() {
        names.extend(configs.keys().map(|name| &**name));
    }
    names.into_iter().map(|name| broker_entry(name, values.get(name), values.synonyms(name))).collect()
}

/// What was set at run time for all brokers.
pub fn broker_default_entries(image: &Image) -> Vec<Entry> {
    let Some(configs) = image.configs_of(&ConfigResource::all_brokers()) else { return Vec::new() };
    configs
        .iter()
        .map(|(name, value)| {
            let source = Source::DynamicDefaultBroker;
            let synonym = Synonym { name: name.to_string(), value: Some(value.to_string()), source };
            broker_entry(name, Some((source, value.to_string())), vec![synonym])
        })
        .collect()
}

fn broker_entry(name: &str, given: Option<(Source, String)>, mut synonyms: Vec<Synonym>) -> Entry {
    let key = table::find(Scope::Broker, name);
    // COMPAT: what a key that nobody declares means is not known, so its value might be a secret.
    let is_sensitive = key.is_none_or(Key::is_sensitive);
    if is_sensitive {
        synonyms.iter_mut().for_each(|synonym| synonym.value = None);
    }
    Entry {
        name: name.to_owned(),
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        value: given.map(|(_, value)| value).filter(|_| !is_sensitive),
        is_read_only: key.is_none_or(|key| key.update == table::Update::ReadOnly),
        is_sensitive,
        synonyms,
        key,
    }
}
