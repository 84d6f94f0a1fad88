//! Records as JSON lines: what `consume --format json` prints, `produce --format json` reads.
//!
//! Bytes that are UTF-8 are strings; others are base64 under `key_base64`, `value_base64`. Headers keep their order and
//! their duplicates: a list of `{"key": .., "value": ..}`. Reading is more forgiving than writing: headers may be an
//! object, and a value that is not a string is taken as the JSON text it is.

use bytes::Bytes;
use ottla_batch::{Header, Record, TimestampMs};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::base64;
use crate::producer::ProducerRecord;

/// One record as a JSON object, its fields in the order in which a person looks for them.
pub struct RecordJson<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub record: &'a Record,
}

impl Serialize for RecordJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", self.topic)?;
        map.serialize_entry("partition", &self.partition)?;
        map.serialize_entry("offset", &self.record.offset.0)?;
        map.serialize_entry("timestamp", &self.record.timestamp.0)?;
        put(&mut map, ["key", "key_base64"], self.record.key.as_deref())?;
        put(&mut map, ["value", "value_base64"], self.record.value.as_deref())?;
        let headers: Vec<HeaderJson<'_>> = self.record.headers.iter().map(HeaderJson).collect();
        map.serialize_entry("headers", &headers)?;
        map.end()
    }
}

struct HeaderJson<'a>(&'a Header);

impl Serialize for HeaderJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        put(&mut map, ["key", "key_base64"], Some(&self.0.key))?;
        put(&mut map, ["value", "value_base64"], self.0.value.as_deref())?;
        map.end()
    }
}

/// Bytes under the first name if they are text, else under the second.
fn put<M: SerializeMap>(map: &mut M, names: [&str; 2], bytes: Option<&[u8]>) -> Result<(), M::Error> {
    match bytes.map(|b| (std::str::from_utf8(b), b)) {
        None => map.serialize_entry(names[0], &()),
        Some((Ok(text), _)) => map.serialize_entry(names[0], text),
        Some((Err(_), raw)) => map.serialize_entry(names[1], &base64::encode(raw)),
    }
}

fn take(object: &Map<String, Value>, name: &str) -> Result<Option<Bytes>, String> {
    if let Some(encoded) = object.get(&format!("{name}_base64")) {
        let decoded = encoded.as_str().and_then(base64::decode);
        return decoded.map(|b| Some(b.into())).ok_or_else(|| format!("{name}_base64 is not base64"));
    }
    Ok(as_bytes(object.get(name).unwrap_or(&Value::Null)))
}

fn as_bytes(value: &Value) -> Option<Bytes> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        other => Some(other.to_string().into()),
    }
}

pub fn from_json(line: &[u8]) -> Result<ProducerRecord, String> {
    let value: Value = serde_json::from_slice(line).map_err(|e| format!("not JSON: {e}"))?;
    let object = value.as_object().ok_or("expected an object with key, value, headers")?;
    const FIELDS: [&str; 9] = [
        "key",
        "value",
        "headers",
        "partition",
        "timestamp",
        "key_base64",
        "value_base64",
        "topic",
        "offset",
    ];
    if let Some(unknown) = object.keys().find(|k| !FIELDS.contains(&k.as_str())) {
        return Err(format!(
            "unknown field {unknown:?} (expected key, value, headers, partition, timestamp)"
        ));
    }
    let mut headers = Vec::new();
    match object.get("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            for (key, value) in map {
                headers.push(Header { key: Bytes::copy_from_slice(key.as_bytes()), value: as_bytes(value) });
            }
        }
        Some(Value::Array(list)) => {
            for entry in list {
                let entry = entry.as_object().ok_or("a header is an object with key and value")?;
                let key = take(entry, "key")?.ok_or("a header needs a key")?;
                headers.push(Header { key, value: take(entry, "value")? });
            }
        }
        Some(_) => return Err("headers are a list or an object".to_owned()),
    }
    let integer = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| format!("{name} is an integer")),
    };
    let partition = integer("partition")?
        .map(|p| i32::try_from(p).map_err(|_| "partition is out of range".to_owned()))
        .transpose()?;
    Ok(ProducerRecord {
        partition,
        key: take(object, "key")?,
        value: take(object, "value")?,
        headers,
        timestamp: integer("timestamp")?.map(TimestampMs),
    })
}

#[cfg(test)]
mod tests {
    use ottla_batch::Offset;

    use super::*;

    fn header(key: &'static [u8], value: Option<&'static [u8]>) -> Header {
        Header { key: Bytes::from_static(key), value: value.map(Bytes::from_static) }
    }

    #[test]
    fn what_consume_prints_produce_reads() {
        let record = Record {
            offset: Offset(7),
            timestamp: TimestampMs(1_700_000_000_000),
            key: Some(Bytes::from_static(&[0xff, 0])),
            value: Some(Bytes::from_static(b"{\"a\": 1}")),
            headers: vec![header(b"h", Some(b"1")), header(b"h", None), header(b"h", Some(&[0xfe]))],
        };
        let line = serde_json::to_string(&RecordJson { topic: "t", partition: 3, record: &record }).unwrap();
        assert!(
            line.starts_with(r#"{"topic":"t","partition":3,"offset":7,"timestamp":1700000000000,"key_base64":"/wA=","value":"#),
            "{line}"
        );
        let read = from_json(line.as_bytes()).unwrap();
        assert_eq!(read.key, record.key);
        assert_eq!(read.value, record.value);
        assert_eq!(read.headers, record.headers);
        assert_eq!(read.partition, Some(3));
        assert_eq!(read.timestamp, Some(record.timestamp));
    }

    #[test]
    fn values_may_be_any_json() {
        let read = from_json(br#"{"key": 5, "value": {"b": [1, 2]}, "headers": {"x": "y"}}"#).unwrap();
        assert_eq!(read.key.as_deref(), Some(&b"5"[..]));
        assert_eq!(read.value.as_deref(), Some(&br#"{"b":[1,2]}"#[..]));
        assert_eq!(read.headers, [header(b"x", Some(b"y"))]);
        let tombstone = from_json(br#"{"key": "k", "value": null}"#).unwrap();
        assert_eq!((tombstone.key.as_deref(), tombstone.value), (Some(&b"k"[..]), None));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("hello", "not JSON"),
            ("[1]", "expected an object"),
            (r#"{"vlaue": 1}"#, "vlaue"),
            (r#"{"headers": 1}"#, "headers"),
            (r#"{"headers": [{"value": "x"}]}"#, "needs a key"),
            (r#"{"partition": "x"}"#, "partition"),
            (r#"{"partition": 99999999999}"#, "partition"),
            (r#"{"value_base64": "?"}"#, "value_base64"),
        ] {
            let error = from_json(line.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
