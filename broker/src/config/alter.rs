//! What may be set at run time. Everything is checked before it becomes part of the metadata, on the configuration that
//! the resource would have afterwards, so that what holds between two keys holds whichever of them is set last.

use ottla_raft::metadata::image::Configs;
use ottla_raft::{ConfigResource, ConfigResourceType, Image};

use super::NodeConfig;
use super::effective::TopicValues;
use super::table::{self, Check, Effect, Key, Scope, Update, Value, list_items};

/// Why a change is not made. COMPAT: Kafka answers bad values of topics and groups with INVALID_CONFIG, those of brokers
/// with INVALID_REQUEST; the sentences follow its pattern, for people search for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    InvalidConfig(String),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("{0}")]
    InvalidTopicName(String),
    #[error("the topic '{0}' does not exist")]
    UnknownTopic(String),
}

/// Judges the complete dynamic configuration that a resource would have.
pub fn check(
    node: &NodeConfig,
    image: &Image,
    resource: &ConfigResource,
    after: &Configs,
) -> Result<(), Refusal> {
    match resource.kind {
        ConfigResourceType::Topic => {
            let before = image.configs_of(resource);
            check_topic(node, image, before, after).map_err(Refusal::InvalidConfig)
        }
        ConfigResourceType::Broker => {
            check_broker(after, resource.name.is_empty()).map_err(Refusal::InvalidRequest)
        }
        ConfigResourceType::Group => check_group(node, image, after).map_err(Refusal::InvalidConfig),
        ConfigResourceType::ClientMetrics => {
            Err(Refusal::InvalidRequest("subscriptions to client metrics are not supported".into()))
        }
    }
}

/// The configuration of a topic that is to be created or changed. `before`: what it has now.
pub fn check_topic(
    node: &NodeConfig,
    image: &Image,
    before: Option<&Configs>,
    after: &Configs,
) -> Result<(), String> {
    check_values(Scope::Topic, "topic", after)?;
    let values = TopicValues::with(node, image, after);
    let (least, most) = (values.integer("min.compaction.lag.ms"), values.integer("max.compaction.lag.ms"));
    if least > most {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({least}) > max.compaction.lag.ms ({most})"
        ));
    }
    super::remote::check(&values, before)?;
    values.check_lake(node)
}

fn check_values(scope: Scope, what: &str, after: &Configs) -> Result<(), String> {
    for (name, text) in after {
        let key = table::find(scope, name).ok_or_else(|| format!("Unknown {what} config name: {name}"))?;
        parse(key, text)?;
    }
    Ok(())
}

fn parse(key: &Key, text: &str) -> Result<Value, String> {
    key.parse(text).map_err(|reason| {
        // COMPAT: of a list, the item that is wrong is shown.
        let wrong = match key.check {
            Check::ListOf(words) => list_items(text).find(|item| !words.contains(item)).unwrap_or(text),
            _ => text,
        };
        format!("Invalid value {wrong} for configuration {}: {reason}", key.name)
    })
}

fn check_broker(after: &Configs, is_cluster_default: bool) -> Result<(), String> {
    let keys_where = |wanted: &dyn Fn(&Key) -> bool| {
        let names = after.keys().filter(|name| table::find(Scope::Broker, name).is_some_and(wanted));
        names.map(|name| &**name).collect::<Vec<_>>().join(", ")
    };
    let read_only = keys_where(&|key| key.update == Update::ReadOnly);
    if !read_only.is_empty() {
        return Err(format!("Cannot update these configs dynamically: [{read_only}]"));
    }
    let security = keys_where(&|key| key.name.starts_with("ssl.") || key.name.starts_with("sasl."));
    if !security.is_empty() {
        return Err(format!(
            "there is no listener with TLS or SASL that these configs could apply to: [{security}]"
        ));
    }
    let per_broker = keys_where(&|key| key.update == Update::PerBroker);
    if is_cluster_default && !per_broker.is_empty() {
        return Err(format!(
            "Cannot update these configs at default cluster level, broker id must be specified: [{per_broker}]"
        ));
    }
    for (name, text) in after {
        // COMPAT: keys that nobody declares are kept, for Kafka's plug-ins bring their own.
        let Some(key) = table::find(Scope::Broker, name) else { continue };
        let value = parse(key, text)?;
        if key.effect == Effect::OnlyDefault && key.default.text() != Some(text.trim()) {
            return Err(format!("Invalid value {text} for configuration {name}: this is not supported"));
        }
        let reason = match (key.name, value) {
            ("log.cleaner.threads", Value::Integer(0)) => "Value must be at least 1",
            ("log.retention.ms", Value::Integer(number)) if number == 0 || number < -1 => {
                "Value must be at least 1, or -1 for no limit"
            }
            ("log.cleaner.dedupe.buffer.size", Value::Integer(bytes)) if bytes <= 1024 * 1024 => {
                "Value must be more than 1048576"
            }
            _ => continue,
        };
        return Err(format!("Invalid value {text} for configuration {name}: {reason}"));
    }
    Ok(())
}

fn check_group(node: &NodeConfig, image: &Image, after: &Configs) -> Result<(), String> {
    check_values(Scope::Group, "group", after)?;
    let broker = super::effective::BrokerValues::new(node, image);
    for (name, text) in after {
        let Ok(number) = text.trim().parse::<i64>() else { continue };
        let Some((kind, rest)) = name.split_once('.') else { continue };
        let least = format!("group.{kind}.min.{rest}");
        let most = format!("group.{kind}.max.{rest}");
        if broker.number(&least).is_some_and(|bound| number < bound) {
            return Err(format!("{name} must be greater than or equal to {least}"));
        }
        if broker.number(&most).is_some_and(|bound| number > bound) {
            return Err(format!("{name} must be less than or equal to {most}"));
        }
    }
    for kind in ["consumer", "share", "streams"] {
        let of = |rest: &str| {
            let own = after.get(format!("{kind}.{rest}").as_str()).and_then(|text| text.trim().parse().ok());
            own.or_else(|| broker.number(&format!("group.{kind}.{rest}")))
        };
        let (session, heartbeat) = (of("session.timeout.ms"), of("heartbeat.interval.ms"));
        if session.zip(heartbeat).is_some_and(|(session, heartbeat)| session <= heartbeat) {
            return Err(format!(
                "{kind}.session.timeout.ms must be greater than {kind}.heartbeat.interval.ms"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ottla_raft::{BrokerId, ClusterId};

    use super::*;

    fn refusal(resource: ConfigResource, pairs: &[(&str, &str)]) -> Option<Refusal> {
        let node = NodeConfig::load(None, &[]).expect("the shipped configuration is valid");
        let image = Image::empty(ClusterId("AAAAAAAAAAAAAAAAAAAAAQ".into()));
        let after =
            pairs.iter().map(|(key, value)| (Arc::<str>::from(*key), Arc::<str>::from(*value))).collect();
        check(&node, &image, &resource, &after).err()
    }

    #[test]
    fn topics() {
        let topic = |key: &str, value: &str| {
            refusal(ConfigResource::topic("t"), &[(key, value)]).map(|refusal| match refusal {
                Refusal::InvalidConfig(reason) => reason,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(topic("retention.ms", "5000"), None);
        assert_eq!(topic("ottla.durability", "memory"), None);
        assert_eq!(topic("cleanup.policy", ""), None);
        assert_eq!(topic("nope", "1").as_deref(), Some("Unknown topic config name: nope"));
        assert_eq!(
            topic("retention.ms", "abc").as_deref(),
            Some("Invalid value abc for configuration retention.ms: Not a number of type LONG")
        );
        assert_eq!(
            topic("segment.bytes", "1").as_deref(),
            Some("Invalid value 1 for configuration segment.bytes: Value must be at least 1048576")
        );
        assert_eq!(
            topic("cleanup.policy", "foo").as_deref(),
            Some(
                "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete"
            )
        );
        assert!(topic("remote.storage.enable", "true").is_some());
        assert!(topic("ottla.durability", "maybe").is_some());
        assert!(topic("ottla.lake.lag.ms", "4999").is_some_and(|reason| reason.contains("at least 5000")));
        assert!(
            topic("ottla.lake.table", "Upper").is_some_and(|reason| reason.contains("lower-case letters"))
        );
        assert!(topic("ottla.lake.enable", "true").is_some_and(|reason| reason.contains("ottla.tier.url")));
        assert_eq!(topic("ottla.lake.json.schema", "{"), None, "counts only with ottla.lake.enable");
        let lags = [("min.compaction.lag.ms", "100"), ("max.compaction.lag.ms", "10")];
        assert!(refusal(ConfigResource::topic("t"), &lags).is_some());
    }

    #[test]
    fn brokers() {
        let one = |key: &str, value: &str| refusal(ConfigResource::broker(BrokerId(1)), &[(key, value)]);
        let all = |key: &str, value: &str| refusal(ConfigResource::all_brokers(), &[(key, value)]);
        assert_eq!(one("log.cleaner.threads", "2"), None);
        assert_eq!(all("log.retention.ms", "777777"), None);
        assert_eq!(one("nope.custom", "abc"), None);
        let invalid = |text: &str| Some(Refusal::InvalidRequest(text.into()));
        assert_eq!(one("node.id", "5"), invalid("Cannot update these configs dynamically: [node.id]"));
        assert_eq!(
            one("log.cleaner.threads", "abc"),
            invalid("Invalid value abc for configuration log.cleaner.threads: Not a number of type INT")
        );
        assert!(one("log.cleaner.threads", "0").is_some());
        assert!(one("ssl.keystore.location", "/a").is_some());
        assert!(all("cordoned.log.dirs", "/a").is_some(), "for one broker only");
        assert!(one("max.connections.per.ip.overrides", "a.b").is_some());
    }

    #[test]
    fn groups_and_client_metrics() {
        let group = |key: &str, value: &str| refusal(ConfigResource::group("g"), &[(key, value)]);
        assert_eq!(group("consumer.session.timeout.ms", "46000"), None);
        assert_eq!(
            group("consumer.session.timeout.ms", "1"),
            Some(Refusal::InvalidConfig(
                "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms"
                    .into()
            ))
        );
        assert!(group("share.delivery.count.limit", "99").is_some());
        assert!(group("nope", "1").is_some());
        let metrics = ConfigResource { kind: ConfigResourceType::ClientMetrics, name: "m".into() };
        assert!(refusal(metrics, &[("interval.ms", "1000")]).is_some());
    }
}
