//! Loading and precedence, as an operator meets them.

use std::io::Write;
use std::time::Duration;

use ottla_batch::{Codec, CompressionPolicy, TimestampType};
use ottla_raft::metadata::image::Configs;
use ottla_raft::{BrokerId, ClusterId, ConfigResource, Image};
use ottla_storage::log::CleanupPolicy;

use super::effective::{self, Entry, Source};
use super::*;
use crate::replica::Durability;

fn load(text: &str) -> Result<NodeConfig, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    NodeConfig::load(Some(file.path()), &[])
}

fn loaded(text: &str) -> NodeConfig {
    load(text).unwrap_or_else(|error| panic!("{error}"))
}

fn problems(text: &str) -> Vec<Problem> {
    load(text).err().map(|error| error.problems).unwrap_or_default()
}

fn image(configs: &[(ConfigResource, &str, &str)]) -> Image {
    let mut image = Image::empty(ClusterId("AAAAAAAAAAAAAAAAAAAAAQ".into()));
    for (resource, key, value) in configs {
        let mut of_resource = image.configs.get(resource).cloned().unwrap_or_else(Configs::new);
        of_resource.insert((*key).into(), (*value).into());
        image.configs.insert(resource.clone(), of_resource);
    }
    image
}

fn entry(entries: Vec<Entry>, name: &str) -> Entry {
    entries.into_iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no entry {name}"))
}

#[test]
fn a_start_without_a_file_is_one_node_on_loopback() {
    let config = NodeConfig::load(None, &[]).expect("the shipped configuration is valid");
    assert_eq!(config.node_id, 1);
    assert_eq!(config.roles, Roles { broker: true, controller: true });
    let addresses: Vec<_> =
        config.listeners.iter().map(|l| (l.name.as_str(), l.host.as_str(), l.port)).collect();
    assert_eq!(addresses, [("PLAINTEXT", "127.0.0.1", 9092), ("CONTROLLER", "127.0.0.1", 9093)]);
    assert_eq!(config.advertised_listeners.len(), 1, "the controller's listener is not advertised");
    assert_eq!(config.advertised_listeners[0].port, 9092);
    assert_eq!(config.log_dirs, [PathBuf::from("./data")]);
    assert_eq!(config.metadata_log_dir, PathBuf::from("./data"));
    assert_eq!(config.metrics_listener.as_deref(), Some("127.0.0.1:9644"));
    assert_eq!(config.inter_broker_listener_name, "PLAINTEXT");
    assert_eq!(config.group.initial_rebalance_delay, Duration::ZERO);
    assert_eq!(config.offsets_topic_replication_factor(1), 1);
    assert_eq!(config.start_notes(), Vec::<String>::new(), "nothing in the shipped file is without effect");
}

#[test]
fn an_empty_file_has_kafkas_defaults() {
    let config = loaded("advertised.listeners=PLAINTEXT://here:9092");
    assert_eq!(config.listeners.len(), 1);
    assert_eq!((config.listeners[0].host.as_str(), config.listeners[0].port), ("", 9092));
    assert_eq!(config.group.initial_rebalance_delay, Duration::from_secs(3));
    assert_eq!(config.network.request_bytes_max, 104_857_600);
    assert_eq!(config.network.idle_max, Some(Duration::from_secs(600)));
    assert_eq!(config.dynamic().message_bytes_max, 1_048_588);
    assert_eq!(config.dynamic().connections_max, i32::MAX as usize);
    assert_eq!(config.group.offsets_retention, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.offsets_topic_replication_factor(1), 1, "as many as a single node can hold");
    assert_eq!(config.offsets_topic_replication_factor(2), 3, "a third broker is waited for");
    assert_eq!(config.offsets_topic_replication_factor(5), 3);
    assert_eq!(
        loaded("offsets.topic.replication.factor=3").offsets_topic_replication_factor(1),
        3,
        "as it was set"
    );
}

#[test]
fn overrides_win_and_the_last_one_counts() {
    let given = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        NodeConfig::load(None, &pairs).unwrap_or_else(|error| panic!("{error}"))
    };
    let config = given(&[("num.partitions", "3"), ("log.dirs", "/a, /b"), ("num.partitions", "6")]);
    assert_eq!(config.topic_defaults.partitions, 6);
    assert_eq!(config.log_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config.metadata_log_dir, PathBuf::from("/a"));
    assert_eq!(given(&[("connections.max.idle.ms", "-1")]).network.idle_max, None);
    assert_eq!(given(&[("socket.send.buffer.bytes", "-1")]).network.send_buffer_bytes, None);
    assert_eq!(given(&[("ottla.metrics.listener", "")]).metrics_listener, None);
}

#[test]
fn all_bad_values_are_reported_at_once_with_what_was_expected() {
    let found = problems(
        "num.partitions=none\nlog.segment.bytes=10\nlog.retention.hours=0\ncompression.type=brotli\n\
         zookeeper.connect=localhost:2181\nottla.durabilty=fsync\nauto.create.topics.enable=yes\n",
    );
    let mut keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "auto.create.topics.enable",
            "compression.type",
            "log.retention.hours",
            "log.segment.bytes",
            "num.partitions",
            "ottla.durabilty",
            "zookeeper.connect"
        ]
    );
    let of = |key: &str| {
        found.iter().find(|problem| problem.key == key).map(ToString::to_string).expect("a problem")
    };
    assert_eq!(of("log.segment.bytes"), "log.segment.bytes=10: an integer of at least 1048576");
    assert_eq!(of("num.partitions"), "num.partitions=none: an integer of at least 1");
    assert!(of("compression.type").contains("zstd"));
    assert!(of("zookeeper.connect").contains("no ZooKeeper"));
}

#[test]
fn what_would_promise_too_much_is_refused() {
    for text in [
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "process.roles=broker",
        "controller.quorum.voters=1@a:1,2@b:1",
        "controller.quorum.voters=7@a:1",
        "listeners=SASL_SSL://:9092",
        "delegation.token.secret.key=geheim",
    ] {
        let found = problems(text);
        assert_eq!(found.len().min(1), 1, "{text} must be refused");
        assert!(!found[0].to_string().contains("geheim"), "secrets are not printed");
    }
    assert_eq!(loaded("controller.quorum.voters=1@localhost:9093").node_id, 1);
    assert_eq!(loaded("authorizer.class.name=").node_id, 1);
}

#[test]
fn broker_id_is_the_old_name_of_node_id() {
    assert_eq!(loaded("broker.id=7").node_id, 7);
    assert_eq!(loaded("broker.id=7\nnode.id=7").node_id, 7);
    assert_eq!(problems("broker.id=7\nnode.id=8")[0].key, "broker.id");
    assert_eq!(problems("node.id=-3")[0].key, "node.id");
}

#[test]
fn listeners_are_read_as_kafka_reads_them() {
    let config = loaded(
        "listeners=inside://[::1]:9092,OUTSIDE://:9094\nlistener.security.protocol.map=INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT\n\
         advertised.listeners=INSIDE://[::1]:9092,OUTSIDE://broker.example.com:19094\ninter.broker.listener.name=INSIDE",
    );
    assert_eq!(config.listeners[0].name, "INSIDE");
    assert_eq!(config.listeners[0].host, "::1");
    assert_eq!(config.advertised_listeners[1].host, "broker.example.com");
    assert_eq!(config.advertised_listeners[1].port, 19094);
    assert_eq!(config.inter_broker_listener_name, "INSIDE");
    for text in [
        "listeners=PLAINTEXT://a:9092,PLAINTEXT://a:9093",
        "listeners=PLAINTEXT://a:99999",
        "listeners=PLAINTEXT:a:9092",
        "listeners=PLAINTEXT://::1:9092",
        "listeners=MINE://a:9092",
        "listeners=CONTROLLER://a:9093",
        "listeners=PLAINTEXT://0.0.0.0:9092",
        "advertised.listeners=PLAINTEXT://0.0.0.0:9092",
        "advertised.listeners=OTHER://a:9092",
        "inter.broker.listener.name=OTHER",
    ] {
        assert!(load(text).is_err(), "{text} must be refused");
    }
    assert_eq!(
        loaded("listeners=PLAINTEXT://0.0.0.0:9092\nadvertised.listeners=PLAINTEXT://a:1").listeners.len(),
        1
    );
}

/// Three lines that make a node part of a cluster.
fn member(id: i32, roles: &str, listeners: &str) -> String {
    format!(
        "node.id={id}\nprocess.roles={roles}\nlisteners={listeners}\n\
         controller.quorum.voters=1@a:9093,2@b:9093,3@[::1]:9093\n"
    )
}

#[test]
fn roles_and_quorum_of_a_cluster() {
    let both = loaded(&member(1, "broker,controller", "PLAINTEXT://a:9092,CONTROLLER://a:9093"));
    assert_eq!(both.roles, Roles { broker: true, controller: true });
    assert!(!both.quorum.is_alone(BrokerId(1)));
    assert_eq!(both.quorum.voters[2], (BrokerId(3), "[::1]:9093".to_owned()));
    let endpoint = both.controller_endpoint.expect("controllers are reached");
    assert_eq!((endpoint.host.as_str(), endpoint.port), ("a", 9093));

    let controller = loaded(&member(2, "controller", "CONTROLLER://:9093"));
    assert_eq!(controller.inter_broker_listener_name, "");
    assert!(controller.advertised_listeners.is_empty());
    let broker = loaded(&member(4, "broker", "PLAINTEXT://d:9092"));
    assert!(broker.controller_endpoint.is_none());
    assert_eq!(broker.inter_broker_listener_name, "PLAINTEXT");

    let advertised = loaded(
        &(member(1, "controller", "CONTROLLER://0.0.0.0:9093")
            + "advertised.listeners=CONTROLLER://out.example.com:19093"),
    );
    let endpoint = advertised.controller_endpoint.expect("controllers are reached");
    assert_eq!((endpoint.host.as_str(), endpoint.port), ("out.example.com", 19093));

    let found = loaded(
        "process.roles=broker\nlisteners=PLAINTEXT://d:9092\ncontroller.quorum.bootstrap.servers=a:9093, b:9093,a:9093",
    );
    assert_eq!(found.quorum.bootstrap_servers, ["a:9093", "b:9093"]);
    assert!(!found.quorum.is_alone(BrokerId(1)));
    assert!(loaded("listeners=PLAINTEXT://d:9092").quorum.is_alone(BrokerId(1)));
}

#[test]
fn what_does_not_fit_together_in_a_cluster_is_refused() {
    let refused = |text: String, key: &str| {
        let found = problems(&text);
        assert!(
            found.iter().any(|problem| problem.key == key),
            "{text} must be refused for {key}: {found:?}"
        );
    };
    let whole = "PLAINTEXT://a:9092,CONTROLLER://a:9093";
    refused(member(9, "broker,controller", whole), "controller.quorum.voters");
    refused(member(1, "broker", "PLAINTEXT://a:9092"), "controller.quorum.voters");
    refused(member(4, "broker", whole), "listeners");
    refused(member(1, "controller", whole), "listeners");
    refused(member(1, "broker,controller", "PLAINTEXT://a:9092"), "controller.listener.names");
    refused(
        member(1, "controller", "CONTROLLER://a:9093") + "controller.listener.names=",
        "controller.listener.names",
    );
    refused("process.roles=broker".into(), "process.roles");
    refused("process.roles=".into(), "process.roles");
    refused("process.roles=broker,broker".into(), "process.roles");
    for voters in ["1", "1@a", "1@a:0", "x@a:1", "-1@a:1", "1@a:1,1@b:1", "1@a:1,2@a:1"] {
        refused(format!("controller.quorum.voters={voters}"), "controller.quorum.voters");
    }
    refused("controller.quorum.bootstrap.servers=a".into(), "controller.quorum.bootstrap.servers");
    refused("broker.heartbeat.interval.ms=0".into(), "broker.heartbeat.interval.ms");
    refused("broker.session.timeout.ms=900".into(), "broker.session.timeout.ms");
}

#[test]
fn what_has_no_effect_is_reported_once() {
    let config = loaded("num.io.threads=16\nlog.retention.hour=5\nnum.partitions=3");
    let notes = config.start_notes();
    assert_eq!(notes.len(), 2);
    assert!(notes[0].ends_with(": num.io.threads"), "{notes:?}");
    assert!(notes[1].ends_with("log.retention.hour"), "{notes:?}");
}

#[test]
fn a_missing_file_is_an_error() {
    let error = NodeConfig::load(Some(Path::new("/does/not/exist")), &[]).expect_err("no such file");
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
}

#[test]
fn a_topic_wins_over_the_broker_and_dynamic_over_static() {
    let node = loaded("log.retention.hours=1\nnode.id=1");
    let retention = |image: &Image| {
        let found = entry(effective::topic_entries(&node, image, "t"), "retention.ms");
        (found.value.expect("a value"), found.source)
    };
    let topic = ConfigResource::topic("t");
    let (one, all) = (ConfigResource::broker(BrokerId(1)), ConfigResource::all_brokers());
    let hour = ("3600000".to_owned(), Source::Default);
    // COMPAT: Kafka shows no source for a value that came through log.retention.hours.
    assert_eq!(retention(&image(&[])), hour);
    assert_eq!(retention(&image(&[(ConfigResource::broker(BrokerId(2)), "log.retention.ms", "5")])), hour);
    let with_default = [(all.clone(), "log.retention.ms", "5")];
    assert_eq!(retention(&image(&with_default)), ("5".into(), Source::DynamicDefaultBroker));
    let with_broker = [(all.clone(), "log.retention.ms", "5"), (one.clone(), "log.retention.ms", "6")];
    assert_eq!(retention(&image(&with_broker)), ("6".into(), Source::DynamicBroker));
    let with_topic = [(one, "log.retention.ms", "6"), (topic.clone(), "retention.ms", "7")];
    assert_eq!(retention(&image(&with_topic)), ("7".into(), Source::Topic));
    let found = entry(effective::topic_entries(&node, &image(&with_topic), "t"), "retention.ms");
    let synonyms: Vec<_> =
        found.synonyms.iter().map(|s| (s.name.as_str(), s.value.as_deref(), s.source)).collect();
    assert_eq!(
        synonyms,
        [
            ("retention.ms", Some("7"), Source::Topic),
            ("log.retention.ms", Some("6"), Source::DynamicBroker),
            ("log.retention.hours", Some("1"), Source::StaticBroker),
            ("log.retention.hours", Some("168"), Source::Default)
        ]
    );
    assert_eq!(
        retention(&image(&[(topic, "retention.ms", "rubbish")])),
        hour,
        "what cannot be read counts as not set"
    );
}

#[test]
fn settings_of_a_topic() {
    let node =
        loaded("log.retention.minutes=2\nlog.roll.hours=3\nlog.retention.hours=9\ncompression.zstd.level=5");
    let topic = ConfigResource::topic("t");
    let settings_with = |pairs: &[(&'static str, &'static str)]| {
        let configs: Vec<_> = pairs.iter().map(|(key, value)| (topic.clone(), *key, *value)).collect();
        effective::TopicValues::new(&node, &image(&configs), "t").settings()
    };
    let plain = settings_with(&[]);
    assert_eq!(plain.log.retention_ms, Some(120_000));
    assert_eq!(plain.log.segment_ms, 3 * 3_600_000);
    assert_eq!(plain.log.retention_bytes, None);
    assert_eq!(plain.log.cleanup_policy, CleanupPolicy::Delete);
    assert_eq!(plain.durability, Durability::Fsync);
    assert_eq!(plain.compression, CompressionPolicy::Producer);
    assert_eq!(plain.log.dedupe_buffer_bytes, 128 << 20);
    let set = settings_with(&[
        ("cleanup.policy", "compact,delete"),
        ("compression.type", "zstd"),
        ("message.timestamp.type", "LogAppendTime"),
        ("retention.ms", "-1"),
        ("ottla.durability", "memory"),
        ("max.message.bytes", "77"),
        ("internal.segment.bytes", "4096"),
        ("min.insync.replicas", "2"),
    ]);
    assert_eq!(set.log.cleanup_policy, CleanupPolicy::CompactAndDelete);
    assert_eq!(set.compression, CompressionPolicy::Fixed(Codec::Zstd, 5));
    assert_eq!(set.timestamp_type, TimestampType::LogAppendTime);
    assert_eq!(set.log.retention_ms, None);
    assert_eq!(set.durability, Durability::Memory);
    assert_eq!((set.batch_bytes_max, set.log.segment_bytes, set.min_in_sync), (77, 4096, 2));
    let kept = settings_with(&[("cleanup.policy", ""), ("retention.ms", "5"), ("retention.bytes", "5")]);
    assert_eq!((kept.log.retention_ms, kept.log.retention_bytes), (None, None), "no policy removes nothing");
}

#[test]
fn the_table_gives_the_logs_own_defaults() {
    let node = loaded("node.id=1");
    let settings = effective::TopicValues::new(&node, &image(&[]), "t").settings();
    assert_eq!(*settings.log, ottla_storage::log::LogConfig::default());
}

#[test]
fn entries_of_a_broker() {
    let node = loaded("node.id=1\nsasl.jaas.config=geheim\nmy.own.key=secret too\nlog.cleaner.threads=2");
    let with = image(&[(ConfigResource::broker(BrokerId(1)), "log.cleaner.threads", "3")]);
    let of = |name: &str| entry(effective::broker_entries(&node, &with), name);
    assert_eq!(of("log.cleaner.threads").value.as_deref(), Some("3"));
    assert_eq!(of("log.cleaner.threads").source, Source::DynamicBroker);
    assert_eq!(of("log.cleaner.threads").synonyms.len(), 3);
    assert!(!of("log.cleaner.threads").is_read_only);
    assert!(of("num.partitions").is_read_only);
    assert_eq!(of("broker.id").value.as_deref(), Some("1"), "shown with the value of node.id");
    for name in ["sasl.jaas.config", "my.own.key"] {
        assert!(of(name).is_sensitive && of(name).value.is_none(), "{name} is not shown");
        assert!(of(name).synonyms.iter().all(|synonym| synonym.value.is_none()));
    }
    assert!(
        effective::broker_entries(&node, &with)
            .iter()
            .all(|e| e.name != "internal.metadata.delete.delay.millis")
    );
    assert_eq!(effective::broker_default_entries(&with), []);
    let with = image(&[(ConfigResource::all_brokers(), "message.max.bytes", "9")]);
    assert_eq!(effective::broker_default_entries(&with).len(), 1);
    node.apply(&with);
    assert_eq!(node.dynamic().message_bytes_max, 9);
    node.apply(&image(&[]));
    assert_eq!(node.dynamic().message_bytes_max, 1_048_588, "removing it brings the default back");
}

#[test]
fn entries_of_a_group() {
    let node = loaded("node.id=1");
    let group = ConfigResource::group("g");
    let with = image(&[(group, "consumer.session.timeout.ms", "46000")]);
    let set = entry(effective::group_entries(&node, &with, "g"), "consumer.session.timeout.ms");
    assert_eq!((set.value.as_deref(), set.source, set.synonyms.len()), (Some("46000"), Source::Group, 2));
    let plain = entry(effective::group_entries(&node, &with, "other"), "share.isolation.level");
    assert_eq!((plain.source, plain.synonyms[0].name.as_str()), (Source::Default, "share.isolation.level"));
}

#[test]
fn the_tier_is_where_the_url_says_or_below_the_log_directory_of_a_lone_node() {
    let place = |text: &str| loaded(text).tier.map(|tier| tier.place);
    const ENABLED: &str = "remote.log.storage.system.enable=true\nlog.dirs=/d/0,/d/1";
    assert_eq!(place(""), None);
    assert_eq!(place(ENABLED), Some(TierPlace::Directory("/d/0/remote".into())));
    let directory = Some(TierPlace::Directory("/mnt/tier".into()));
    assert_eq!(place("ottla.tier.url=file:///mnt/tier/"), directory);
    let bucket = |prefix: &str| Some(TierPlace::Bucket { bucket: "b-1".into(), prefix: prefix.into() });
    if cfg!(feature = "s3") {
        assert_eq!(place("ottla.tier.url=s3://b-1"), bucket(""));
        assert_eq!(place("ottla.tier.url=s3://b-1/"), bucket(""));
        assert_eq!(place("ottla.tier.url=s3://b-1/a/b/"), bucket("a/b/"));
    }
    for url in [
        "/mnt/tier",
        "file://tier",
        "file:///",
        "s3://",
        "s3:///a",
        "s3://b/a//b",
        "s3://b/../a",
        "gs://b",
        "s3://b c",
    ] {
        let found = problems(&format!("ottla.tier.url={url}"));
        assert_eq!(found.len(), 1, "{url}: {found:?}");
        assert_eq!((found[0].key.as_str(), found[0].value.as_str()), ("ottla.tier.url", url));
    }
    // What one node keeps for itself the others of a cluster could not read.
    let of_three = "listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
                    controller.quorum.voters=1@localhost:9093,2@b:1,3@c:1\n";
    let found = problems(&format!("{of_three}remote.log.storage.system.enable=true"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].key, "ottla.tier.url");
    assert_eq!(place(&format!("{of_three}{ENABLED}\nottla.tier.url=file:///mnt/tier")), directory);
}

#[test]
fn an_endpoint_is_a_url_and_is_asked_by_paths() {
    let s3 = |text: &str| loaded(&format!("ottla.tier.url=file:///t\n{text}")).tier.expect("a tier").s3;
    assert!(!s3("").path_style);
    assert!(s3("ottla.tier.s3.endpoint=http://localhost:9000").path_style);
    assert!(!s3("ottla.tier.s3.endpoint=http://localhost:9000\nottla.tier.s3.path.style=false").path_style);
    let found = problems("ottla.tier.url=file:///t\nottla.tier.s3.endpoint=localhost:9000");
    assert_eq!(found[0].key, "ottla.tier.s3.endpoint");
}

#[cfg(feature = "rest")]
#[test]
fn a_rest_catalog_needs_a_url_and_one_way_in() {
    use ottla_rest::Auth;

    use super::LakeCatalog;

    let with = |keys: &str| format!("ottla.tier.url=file:///bucket\nottla.lake.catalog=rest\n{keys}");
    let url = "ottla.lake.rest.uri=http://127.0.0.1:8181";
    let auth = |keys: &str| match loaded(&with(&format!("{url}\n{keys}"))).lake.catalog {
        LakeCatalog::Rest(config) => config.auth,
        other => panic!("{other:?}"),
    };
    assert_eq!(auth(""), Auth::None);
    assert_eq!(auth("ottla.lake.rest.token=geheim"), Auth::Token("geheim".to_owned()));
    // Only the first colon is none of the secret's.
    let Auth::Credentials(credentials) = auth("ottla.lake.rest.credential=ottla:ge:heim") else { panic!() };
    assert_eq!((credentials.client_id.as_deref(), &*credentials.client_secret), (Some("ottla"), "ge:heim"));
    assert_eq!((credentials.scope.as_str(), credentials.server_uri), ("catalog", None));
    let Auth::Credentials(credentials) = auth("ottla.lake.rest.credential=geheim") else { panic!() };
    assert_eq!((credentials.client_id, &*credentials.client_secret), (None, "geheim"));
    let both = format!("{url}\nottla.lake.rest.token=geheim\nottla.lake.rest.credential=a:geheim");
    let elsewhere =
        format!("{url}\nottla.lake.rest.credential=a:geheim\nottla.lake.rest.oauth2.server.uri=there");
    for keys in
        ["", "ottla.lake.rest.uri=catalog:8181", "ottla.lake.rest.uri=ftp://catalog", &both, &elsewhere]
    {
        let found = problems(&with(keys));
        assert_eq!(found.len(), 1, "{keys} must be refused: {found:?}");
        assert!(!found[0].to_string().contains("geheim"), "secrets are not printed");
    }
    let config = loaded(&with(&format!("{url}\nottla.lake.rest.token=geheim")));
    assert!(!format!("{:?}", config.lake).contains("geheim"), "secrets are not shown");
}
