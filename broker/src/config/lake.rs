//! Topics as tables, as configured: `ottla.lake.*` of the broker and of topics.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_raft::Image;

use super::NodeConfig;
#[cfg(feature = "glue")]
use super::S3Settings;
use super::effective::TopicValues;
use super::table::Value;

/// Of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeConfig {
    /// `ottla.lake.database`
    pub database: String,
    pub catalog: LakeCatalog,
}

/// `ottla.lake.catalog`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LakeCatalog {
    /// In the store itself.
    None,
    #[cfg(feature = "glue")]
    Glue {
        /// `ottla.lake.glue.endpoint`
        endpoint: Option<String>,
        /// `ottla.lake.glue.catalog.id`
        catalog_id: Option<String>,
        /// Whose region, credentials and patience the catalog shares.
        s3: Box<S3Settings>,
    },
    /// `ottla.lake.rest.*`
    #[cfg(feature = "rest")]
    Rest(Box<ottla_rest::RestConfig>),
}

/// Of a topic with `ottla.lake.enable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeTopic {
    /// `ottla.lake.table`
    pub table: String,
    pub schema: LakeSchema,
    /// `ottla.lake.partition`
    pub is_by_day: bool,
    /// `ottla.lake.lag.ms`
    pub lag: Duration,
    /// `ottla.lake.retention.ms`; None for ever.
    pub retention: Option<Duration>,
}

/// `ottla.lake.schema`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LakeSchema {
    Infer,
    /// The text of `ottla.lake.json.schema`.
    Json(String),
    Raw,
}

/// The table of a topic that is not there yet; None if its own configuration asks for none.
pub fn table_of(topic: &str, configs: &BTreeMap<String, String>) -> Option<String> {
    let is_enabled = configs.get("ottla.lake.enable")?.trim().eq_ignore_ascii_case("true");
    let named = configs.get("ottla.lake.table").map(|name| name.trim()).filter(|name| !name.is_empty());
    is_enabled.then(|| named.map_or_else(|| table_name(topic), str::to_owned))
}

/// Athena's bound is 255; the quarantine's name is longer by a suffix.
const NAME_BYTES_MAX: usize = 200;
/// Of the table beside each table; see `ottla_lake::table`.
const QUARANTINE_SUFFIX: &str = "__quarantine";

impl NodeConfig {
    /// None for a topic without a table.
    pub fn lake_of(&self, image: &Image, topic: &str) -> Option<LakeTopic> {
        TopicValues::new(self, image, topic).lake(topic)
    }
}

impl TopicValues<'_> {
    fn lake(&self, topic: &str) -> Option<LakeTopic> {
        if self.value("ottla.lake.enable") != Some(Value::Boolean(true)) {
            return None;
        }
        let named = self.word("ottla.lake.table");
        Some(LakeTopic {
            table: if named.is_empty() { table_name(topic) } else { named },
            schema: match self.word("ottla.lake.schema").as_str() {
                "json-schema" => LakeSchema::Json(self.word("ottla.lake.json.schema")),
                "raw" => LakeSchema::Raw,
                _ => LakeSchema::Infer,
            },
            is_by_day: self.word("ottla.lake.partition") != "none",
            lag: Duration::from_millis(self.integer("ottla.lake.lag.ms").max(0) as u64),
            retention: u64::try_from(self.integer("ottla.lake.retention.ms")).ok().map(Duration::from_millis),
        })
    }

    /// What must hold between the keys. The error is a sentence for whoever sets them.
    pub(super) fn check_lake(&self, node: &NodeConfig) -> Result<(), String> {
        // The name of a topic that is about to be made does not matter here.
        let Some(table) = self.lake("topic") else { return Ok(()) };
        if cfg!(not(feature = "lake")) {
            return Err("ottla.lake.enable: this build of Ottla has no tables".into());
        }
        // A node that is only a controller judges, too, and keeps no tables.
        if node.roles.broker && node.tier.is_none() {
            return Err(
                "ottla.lake.enable: tables are kept in the store of ottla.tier.url, and this broker has none"
                    .into(),
            );
        }
        match &table.schema {
            LakeSchema::Json(text) if text.is_empty() => {
                Err("ottla.lake.schema=json-schema needs a JSON Schema in ottla.lake.json.schema".into())
            }
            #[cfg(feature = "lake")]
            LakeSchema::Json(text) => ottla_lake::json_schema::JsonSchema::parse(text)
                .map(drop)
                .map_err(|error| format!("ottla.lake.json.schema: {error}")),
            _ => Ok(()),
        }
    }
}

/// Lower-case letters, digits and underscores: what Glue and Athena take.
pub fn table_name(topic: &str) -> String {
    let character = |byte: u8| match byte.to_ascii_lowercase() {
        byte @ (b'a'..=b'z' | b'0'..=b'9') => char::from(byte),
        _ => '_',
    };
    let mut name: String = topic.bytes().take(NAME_BYTES_MAX - 2).map(character).collect();
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || name.ends_with(QUARANTINE_SUFFIX) {
        name.insert_str(0, "t_");
    }
    if name.ends_with(QUARANTINE_SUFFIX) {
        name.push('_');
    }
    name
}

/// Of tables and databases.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_of_glue = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_well_formed = name.len() <= NAME_BYTES_MAX
        && name.bytes().all(is_of_glue)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.ends_with(QUARANTINE_SUFFIX);
    match is_well_formed {
        true => Ok(()),
        false => Err(format!(
            "Value must be at most {NAME_BYTES_MAX} lower-case letters, digits and underscores, begin with a letter or digit and \
             not end with {QUARANTINE_SUFFIX}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_come_from_topics() {
        for (topic, table) in [
            ("stocks", "stocks"),
            ("Orders.v1-EU", "orders_v1_eu"),
            ("_internal", "t__internal"),
            ("..", "t___"),
            ("a__quarantine", "t_a__quarantine_"),
        ] {
            assert_eq!(table_name(topic), table);
            assert_eq!(check_name(&table_name(topic)), Ok(()), "{topic}");
        }
        assert_eq!(check_name(&table_name(&"x".repeat(249))), Ok(()));
        for name in ["", "A", "a-b", "_a", "a__quarantine", "é", &"a".repeat(201)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
