//! The one table of all configuration keys: what Kafka 4 knows, by its own names, and Ottla's `ottla.*`.
//!
//! The parser of server.properties, the checks of AlterConfigs, the answers of DescribeConfigs and
//! docs/configuration.md all come from it. Rows live in one file per concern; [`keys`] is their sum. A name is unique
//! within its [`Scope`]; `compression.type` for instance is a key of the broker and one of topics.

mod group;
mod group_resource;
mod lake;
mod log;
mod network;
mod node;
mod ottla;
mod quorum;
mod remote;
mod replication;
mod security;
mod tier;
mod topic;
mod transaction;

use std::collections::HashMap;
use std::sync::LazyLock;

/// One key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    pub name: &'static str,
    pub scope: Scope,
    pub kind: Kind,
    pub default: Default,
    pub check: Check,
    pub update: Update,
    pub effect: Effect,
    /// For keys of topics and groups: the keys of the broker that give the default, the strongest first.
    pub broker_keys: &'static [(&'static str, Unit)],
    /// Not listed unless it is set (Kafka's internal keys).
    pub hidden: bool,
    pub doc: &'static str,
}

/// Whose configuration a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Broker,
    Topic,
    Group,
    ClientMetrics,
}

/// Kafka's types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    String,
    Int,
    Short,
    Long,
    Double,
    /// Separated by commas.
    List,
    Class,
    /// Never shown.
    Password,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    Is(&'static str),
    /// No value; another key or the program decides.
    Null,
}

impl Default {
    pub fn text(self) -> Option<&'static str> {
        match self {
            Default::Is(text) => Some(text),
            Default::Null => None,
        }
    }
}

/// What a value must be beyond its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Check {
    Any,
    AtLeast(i64),
    /// Both inclusive.
    Between(i64, i64),
    RatioBetween(f64, f64),
    OneOf(&'static [&'static str]),
    OneOfIgnoreCase(&'static [&'static str]),
    /// Every item is one of these.
    ListOf(&'static [&'static str]),
    NonEmpty,
    /// 1 to 9, or -1 for the library's default.
    GzipLevel,
    /// `*` or `partition:broker` items.
    ThrottledReplicas,
    /// `address:count` items.
    ConnectionOverrides,
    /// `latest`, `earliest` or `by_duration:` with an ISO 8601 duration.
    OffsetReset,
    /// Of a table or database.
    LakeName,
}

/// How a key of the broker can be changed while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    ReadOnly,
    /// For each broker on its own.
    PerBroker,
    /// For each broker or for the whole cluster.
    ClusterWide,
}

/// What Ottla does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Used,
    /// Accepted and shown, without effect; reported once at start when it is set.
    Known,
    /// A value other than the default would promise something that is not there (an authorizer, a tier), so it is
    /// refused instead of ignored.
    OnlyDefault,
}

/// How a value of a broker's key becomes the value of the topic's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Same,
    Minutes,
    Hours,
}

impl Unit {
    pub fn millis(self) -> i64 {
        match self {
            Unit::Same => 1,
            Unit::Minutes => 60_000,
            Unit::Hours => 3_600_000,
        }
    }
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: Default,
    check: Check,
    update: Update,
    effect: Effect,
    doc: &'static str,
) -> Key {
    Key {
        name,
        scope: Scope::Broker,
        kind,
        default,
        check,
        update,
        effect,
        broker_keys: &[],
        hidden: false,
        doc,
    }
}

const fn topic(
    name: &'static str,
    kind: Kind,
    default: Default,
    check: Check,
    effect: Effect,
    broker_keys: &'static [(&'static str, Unit)],
    doc: &'static str,
) -> Key {
    let update = Update::ClusterWide;
    Key { name, scope: Scope::Topic, kind, default, check, update, effect, broker_keys, hidden: false, doc }
}

impl Key {
    const fn hidden(self) -> Key {
        Key { hidden: true, ..self }
    }

    const fn of(self, scope: Scope) -> Key {
        Key { scope, ..self }
    }

    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// Reads a value as Kafka does and checks it. The error is the sentence that Kafka puts after the value and name.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let number = |min: i64, max: i64, name: &str| {
            // Java's parseInt takes a leading plus sign, as Rust's does.
            text.parse::<i64>()
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Value::Integer)
                .ok_or_else(|| format!("Not a number of type {name}"))
        };
        let value = match self.kind {
            Kind::Boolean if text.eq_ignore_ascii_case("true") => Value::Boolean(true),
            Kind::Boolean if text.eq_ignore_ascii_case("false") => Value::Boolean(false),
            Kind::Boolean => return Err("Expected value to be either true or false".into()),
            Kind::Int => number(i32::MIN.into(), i32::MAX.into(), "INT")?,
            Kind::Short => number(i16::MIN.into(), i16::MAX.into(), "SHORT")?,
            Kind::Long => number(i64::MIN, i64::MAX, "LONG")?,
            Kind::Double => match text.parse::<f64>() {
                Ok(number) if !number.is_nan() => Value::Double(number),
                _ => return Err("Not a number of type DOUBLE".into()),
            },
            Kind::List => Value::List(list_items(text).map(str::to_owned).collect()),
            Kind::String | Kind::Class | Kind::Password => Value::Text(text.to_owned()),
        };
        self.check.run(self.name, &value)?;
        Ok(value)
    }

    /// What a value must be, for people: errors at start and the reference page.
    pub fn expected(&self) -> String {
        let kind = match self.kind {
            Kind::Boolean => "true or false",
            Kind::Int | Kind::Short | Kind::Long => "an integer",
            Kind::Double => "a number",
            Kind::List => "a list separated by commas",
            Kind::String => "text",
            Kind::Class => "a Java class",
            Kind::Password => "a secret",
        };
        match self.check {
            Check::Any if matches!(self.kind, Kind::Int | Kind::Short) => {
                let max = if self.kind == Kind::Int { i64::from(i32::MAX) } else { i64::from(i16::MAX) };
                format!("{kind} of at most {max}")
            }
            Check::Any => kind.to_owned(),
            Check::AtLeast(min) => format!("{kind} of at least {min}"),
            Check::Between(min, max) => format!("{kind} from {min} to {max}"),
            Check::RatioBetween(min, max) => format!("{kind} from {min} to {max}"),
            Check::OneOf(words) | Check::OneOfIgnoreCase(words) => format!("one of {}", words.join(", ")),
            Check::ListOf(words) => format!("a list of {}", words.join(", ")),
            Check::NonEmpty => format!("{kind} that is not empty"),
            Check::GzipLevel => "an integer from 1 to 9, or -1".to_owned(),
            Check::ThrottledReplicas => "`*` or a list of partition:broker".to_owned(),
            Check::ConnectionOverrides => "a list of address:count".to_owned(),
            Check::OffsetReset => "latest, earliest or by_duration:PnDTnHnMn.nS".to_owned(),
            Check::LakeName => "lower-case letters, digits and underscores".to_owned(),
        }
    }
}

impl Check {
    fn run(self, name: &str, value: &Value) -> Result<(), String> {
        let at_least = |n: i64, min: i64| {
            if n < min { Err(format!("Value must be at least {min}")) } else { Ok(()) }
        };
        let at_most = |n: i64, max: i64| {
            if n > max { Err(format!("Value must be no more than {max}")) } else { Ok(()) }
        };
        let one_of = |words: &[&str]| Err(format!("String must be one of: {}", words.join(", ")));
        match (self, value) {
            (Check::AtLeast(min), Value::Integer(n)) => at_least(*n, min),
            (Check::Between(min, max), Value::Integer(n)) => {
                at_least(*n, min).and_then(|()| at_most(*n, max))
            }
            (Check::GzipLevel, Value::Integer(-1)) => Ok(()),
            (Check::GzipLevel, Value::Integer(n)) if (1..=9).contains(n) => Ok(()),
            (Check::GzipLevel, _) => Err("Value must be between 1 and 9 or equal to -1".into()),
            (Check::RatioBetween(min, _), Value::Double(n)) if *n < min => {
                Err(format!("Value must be at least {min}"))
            }
            (Check::RatioBetween(_, max), Value::Double(n)) if *n > max => {
                Err(format!("Value must be no more than {max}"))
            }
            (Check::OneOf(words), Value::Text(text)) if !words.contains(&text.as_str()) => one_of(words),
            (Check::OneOfIgnoreCase(words), Value::Text(text))
                if !words.iter().any(|word| word.eq_ignore_ascii_case(text)) =>
            {
                Err(format!("String must be one of (case insensitive): {}", words.join(", ")))
            }
            (Check::ListOf(words), Value::List(items))
                if items.iter().any(|item| !words.contains(&item.as_str())) =>
            {
                one_of(words)
            }
            (Check::NonEmpty, Value::Text(text)) if text.is_empty() => Err("String must be non-empty".into()),
            (Check::ThrottledReplicas, Value::List(items)) if !throttled_replicas_are_valid(items) => {
                Err(format!(
                    "{name} must be the literal '*' or a list of replicas in the following format: \
                     [partitionId]:[brokerId],[partitionId]:[brokerId],..."
                ))
            }
            (Check::ConnectionOverrides, Value::Text(text)) => connection_overrides(text).map(|_| ()),
            (Check::OffsetReset, Value::Text(text))
                if !(["latest", "earliest"].contains(&text.as_str()) || is_by_duration(text)) =>
            {
                Err("Value must be latest, earliest or by_duration:PnDTnHnMn.nS".into())
            }
            (Check::LakeName, Value::Text(text)) => crate::config::lake::check_name(text),
            _ => Ok(()),
        }
    }
}

/// A value of the type its key says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(String),
    List(Vec<String>),
}

/// The items of a list as Kafka takes them apart: none in an empty text, no spaces around commas.
pub fn list_items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn throttled_replicas_are_valid(items: &[String]) -> bool {
    let is_pair = |item: &String| {
        item.split_once(':').is_some_and(|(partition, broker)| {
            partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok()
        })
    };
    matches!(items, [one] if one == "*") || items.iter().all(is_pair)
}

fn is_by_duration(text: &str) -> bool {
    text.strip_prefix("by_duration:P").is_some_and(|rest| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit() || "DTHMS.".contains(c))
    })
}

/// The items of `max.connections.per.ip.overrides`. An address may be a name; then it counts for nothing here, for the
/// broker does not resolve names while it accepts connections.
pub fn connection_overrides(text: &str) -> Result<Vec<(String, usize)>, String> {
    list_items(text)
        .map(|item| {
            item.rsplit_once(':')
                .and_then(|(address, count)| {
                    let address = address.trim().trim_start_matches('[').trim_end_matches(']');
                    let count = count.trim().parse::<u32>().ok()?;
                    (!address.is_empty()).then(|| (address.to_owned(), count as usize))
                })
                .ok_or_else(|| format!("'{item}' is not of the form address:count"))
        })
        .collect()
}

const PARTS: &[&[Key]] = &[
    ottla::KEYS,
    node::KEYS,
    network::KEYS,
    log::KEYS,
    replication::KEYS,
    quorum::KEYS,
    group::KEYS,
    transaction::KEYS,
    remote::KEYS,
    lake::KEYS,
    tier::KEYS,
    security::KEYS,
    topic::KEYS,
    group_resource::KEYS,
];

static BY_NAME: LazyLock<HashMap<(Scope, &'static str), &'static Key>> =
    LazyLock::new(|| keys().map(|key| ((key.scope, key.name), key)).collect());

/// All keys, grouped by concern.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    PARTS.iter().flat_map(|part| part.iter())
}

pub fn keys_of(scope: Scope) -> impl Iterator<Item = &'static Key> {
    keys().filter(move |key| key.scope == scope)
}

pub fn find(scope: Scope, name: &str) -> Option<&'static Key> {
    BY_NAME.get(&(scope, name)).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_key_is_declared_once_with_a_doc_and_a_default_that_is_valid() {
        let mut seen = HashSet::new();
        for key in keys() {
            assert!(seen.insert((key.scope, key.name)), "{} is declared twice", key.name);
            assert!(key.doc.len() > 8 && key.doc.ends_with('.'), "{} wants a sentence", key.name);
            if let Default::Is(text) = key.default {
                assert!(key.parse(text).is_ok(), "default of {}: {:?}", key.name, key.parse(text));
            }
            for (name, unit) in key.broker_keys {
                let broker = find(Scope::Broker, name).unwrap_or_else(|| panic!("{name} is no broker key"));
                assert_eq!(key.kind == broker.kind, *unit == Unit::Same, "{name} gives {}", key.name);
            }
        }
        assert!(seen.len() > 400, "Kafka 4 has more than 400 keys, {} are here", seen.len());
    }

    #[test]
    fn a_topic_default_equals_the_default_of_its_broker_keys() {
        for key in keys_of(Scope::Topic) {
            let given = key.broker_keys.iter().find_map(|(name, unit)| {
                let text = find(Scope::Broker, name)?.default.text()?;
                Some(match unit {
                    Unit::Same => text.to_owned(),
                    unit => (text.parse::<i64>().ok()? * unit.millis()).to_string(),
                })
            });
            if let (Some(given), Some(own)) = (given, key.default.text()) {
                assert_eq!(given, own, "{}", key.name);
            }
        }
    }

    #[test]
    fn values_are_read_as_kafka_reads_them() {
        let topic = |name| find(Scope::Topic, name).expect("a topic key");
        assert_eq!(topic("retention.ms").parse(" 5 "), Ok(Value::Integer(5)));
        assert_eq!(topic("retention.ms").parse("abc"), Err("Not a number of type LONG".into()));
        assert_eq!(topic("retention.ms").parse("-5"), Err("Value must be at least -1".into()));
        assert_eq!(topic("segment.bytes").parse("3000000000"), Err("Not a number of type INT".into()));
        assert_eq!(
            topic("cleanup.policy").parse("compact, delete"),
            Ok(Value::List(vec!["compact".into(), "delete".into()]))
        );
        assert_eq!(topic("cleanup.policy").parse(""), Ok(Value::List(vec![])));
        assert_eq!(topic("cleanup.policy").parse("x"), Err("String must be one of: compact, delete".into()));
        assert_eq!(topic("preallocate").parse("TRUE"), Ok(Value::Boolean(true)));
        assert_eq!(topic("min.cleanable.dirty.ratio").parse("2"), Err("Value must be no more than 1".into()));
        assert!(topic("compression.gzip.level").parse("0").is_err());
        assert!(topic("leader.replication.throttled.replicas").parse("*").is_ok());
        assert!(topic("leader.replication.throttled.replicas").parse("0:1,1:1").is_ok());
        assert!(topic("leader.replication.throttled.replicas").parse("zz").is_err());
        let overrides = find(Scope::Broker, "max.connections.per.ip.overrides").expect("a broker key");
        assert!(overrides.parse("127.0.0.1:5, ::1:7").is_ok());
        assert!(overrides.parse("a.b").is_err());
    }
}
