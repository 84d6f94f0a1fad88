//! Where the remote tier and the tables are kept.

use super::Check::*;
use super::Default::*;
use super::Effect::*;
use super::Kind::*;
use super::Update::*;
use super::{Key, key};

#[rustfmt::skip] // One key is one row.
pub(super) const KEYS: &[Key] = &[
    key("ottla.tier.url", String, Null, Any, ReadOnly, Used,
        "Where the remote tier and tables are kept: `s3://bucket/prefix`, or `file:///directory`, which all nodes of a cluster must share. A node that is all of its cluster needs none: it takes the directory `remote` below the first of `log.dirs`."),
    key("ottla.tier.s3.endpoint", String, Null, Any, ReadOnly, Used,
        "URL of a service other than Amazon's that speaks S3, `https://host:port`."),
    key("ottla.tier.s3.region", String, Null, NonEmpty, ReadOnly, Used,
        "Region of the bucket; not set, what the environment, the profile or the machine says, or `us-east-1` where `ottla.tier.s3.endpoint` is a service other than Amazon's."),
    key("ottla.tier.s3.path.style", Boolean, Null, Any, ReadOnly, Used,
        "Whether the bucket is named in the path of URLs instead of the host; not set, true where `ottla.tier.s3.endpoint` is."),
    key("ottla.tier.s3.role.arn", String, Null, NonEmpty, ReadOnly, Used,
        "Role that is assumed with the credentials that the environment, the profile or the machine gives."),
    key("ottla.tier.s3.role.external.id", String, Null, NonEmpty, ReadOnly, Used,
        "External id that this role asks for."),
    key("ottla.tier.s3.sse.kms.key.id", String, Null, NonEmpty, ReadOnly, Used,
        "Key of AWS KMS that objects are encrypted with; not set, the bucket decides."),
    key("ottla.tier.s3.connect.timeout.ms", Long, Is("5000"), AtLeast(1), ReadOnly, Used,
        "How long a connection to the bucket may take."),
    key("ottla.tier.s3.request.timeout.ms", Long, Is("60000"), AtLeast(1), ReadOnly, Used,
        "How long one try of a request to the bucket may stand still, without an answer and without a byte sent or received; one that comes along may take longer."),
    key("ottla.tier.s3.retries", Int, Is("4"), Between(0, 100), ReadOnly, Used,
        "How often a request that failed for a passing reason is tried again, after pauses that double from 100 ms to 10 s."),
];
