//! Topics as tables.

use super::Check::*;
use super::Default::*;
use super::Effect::*;
use super::Kind::*;
use super::Update::*;
use super::{Key, key, topic};

#[rustfmt::skip] // One key is one row.
pub(super) const KEYS: &[Key] = &[
    key("ottla.lake.database", String, Is("ottla"), LakeName, ReadOnly, Used,
        "Database of the catalog that topics' tables are in."),
    key("ottla.lake.catalog", String, Null, OneOf(&["none", "glue", "rest"]), ReadOnly, Used,
        "Where tables are entered: `none`, in the store of `ottla.tier.url` itself, beside each table; `glue`, in AWS Glue; `rest`, in the Iceberg REST catalog at `ottla.lake.rest.uri`. Not set, it is `glue` for a bucket of Amazon's and `none` for everything else."),
    key("ottla.lake.glue.endpoint", String, Null, NonEmpty, ReadOnly, Used,
        "URL of a service like AWS Glue; without it, Amazon's in the region of `ottla.tier.s3.region`."),
    key("ottla.lake.glue.catalog.id", String, Null, NonEmpty, ReadOnly, Used,
        "Account whose Glue catalog is used; without it, the account of the credentials."),
    key("ottla.lake.rest.uri", String, Null, NonEmpty, ReadOnly, Used,
        "URL of the Iceberg REST catalog, without `/v1`: `https://host` or `http://host:port/path`."),
    key("ottla.lake.rest.warehouse", String, Null, NonEmpty, ReadOnly, Used,
        "Which of its catalogs or warehouses is meant, for a service that has several."),
    key("ottla.lake.rest.token", Password, Null, NonEmpty, ReadOnly, Used,
        "Bearer token that is sent with each request to the REST catalog."),
    key("ottla.lake.rest.credential", Password, Null, NonEmpty, ReadOnly, Used,
        "Credentials of an OAuth 2 client, `id:secret` or only a secret, for which the REST catalog is asked with tokens that are renewed before they end."),
    key("ottla.lake.rest.oauth2.server.uri", String, Null, NonEmpty, ReadOnly, Used,
        "URL where tokens are given for `ottla.lake.rest.credential`; without it, `v1/oauth/tokens` of the catalog itself."),
    key("ottla.lake.rest.scope", String, Is("catalog"), NonEmpty, ReadOnly, Used,
        "Scope of these tokens."),
    key("ottla.lake.rest.connect.timeout.ms", Long, Is("5000"), AtLeast(1), ReadOnly, Used,
        "How long a connection to the REST catalog may take."),
    key("ottla.lake.rest.request.timeout.ms", Long, Is("60000"), AtLeast(1), ReadOnly, Used,
        "How long one try of a request to the REST catalog may take."),
    key("ottla.lake.rest.retries", Int, Is("4"), Between(0, 100), ReadOnly, Used,
        "How often a request to the REST catalog that may be repeated is tried again, with pauses that grow."),
    topic("ottla.lake.enable", Boolean, Is("false"), Any, Used, &[],
        "Whether the topic's records are also the rows of an Iceberg table, from its first record on."),
    topic("ottla.lake.table", String, Null, LakeName, Used, &[],
        "Name of the topic's table; when it is not set, the topic's in lower case, with underscores for what is neither letter nor digit."),
    topic("ottla.lake.schema", String, Is("infer"), OneOf(&["infer", "json-schema", "raw"]), Used, &[],
        "Columns: `infer`, from the values, which are JSON objects; `json-schema`, those of `ottla.lake.json.schema`; `raw`, one column with the value."),
    topic("ottla.lake.json.schema", String, Null, Any, Used, &[],
        "JSON Schema of the values when `ottla.lake.schema` is `json-schema`."),
    topic("ottla.lake.partition", String, Is("day(kafka_timestamp)"), OneOf(&["day(kafka_timestamp)", "none"]), Used, &[],
        "How a new table's files are divided: `day(kafka_timestamp)` or `none`."),
    topic("ottla.lake.lag.ms", Long, Is("60000"), AtLeast(5000), Used, &[],
        "How often what was produced is committed to the table."),
    topic("ottla.lake.retention.ms", Long, Is("-1"), AtLeast(-1), Used, &[],
        "How long rows stay in the table, whatever the topic's retention; -1: for ever."),
];
