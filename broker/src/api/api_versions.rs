//! ApiVersions (key 18), versions 0 to 5: which APIs, versions and features this node offers.
//!
//! - v1 adds the throttle time; v3 (KIP-511) is flexible and names the client's software; the response header stays
//!   version 0 so that a client can read it before it knows what the broker speaks.
//! - v3 also carries the supported and finalized features (KIP-584); up to v3 a feature whose lowest level is 0 is left
//!   out, because clients of that time refuse it (KAFKA-17011, mended by v4).
//! - v5 (KIP-1242): the client says which cluster and node it means to have reached. If it is another, the answer is
//!   REBOOTSTRAP_REQUIRED.
//! - A version that is not offered is answered as version 0 with UNSUPPORTED_VERSION and the offered range, and the
//!   client tries again.

use bytes::{Buf, Bytes};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest};
use kafka_protocol::protocol::StrBytes;

use super::{Close, ListenerRole, Part, Reply, RequestContext, Started, guard, table};

pub struct Request {
    software: Option<(StrBytes, StrBytes)>,
    /// v5: what the client means to have reached; none and -1 where it doesn't care.
    cluster_id: Option<StrBytes>,
    node_id: i32,
}

pub fn decode(body: Bytes, version: i16) -> Result<Request, Close> {
    let mut cluster_id = None;
    let mut node_id = -1;
    let mut body = body;
    if version >= 5 {
        // The two fields stand between the strings of version 3 and the tagged fields: they are cut out, and what is
        // left is a version 4 request.
        let short = || Close::new("malformed ApiVersions request: it ends too early");
        let mut rest = body.clone();
        for _ in 0..2 {
            let length = compact_length(&mut rest).ok_or_else(short)?.ok_or_else(short)?;
            if rest.len() < length {
                return Err(short());
            }
            rest.advance(length);
        }
        let strings = body.slice(..body.len() - rest.len());
        if let Some(length) = compact_length(&mut rest).ok_or_else(short)? {
            if rest.len() < length {
                return Err(short());
            }
            let text = StrBytes::from_utf8(rest.split_to(length));
            cluster_id = Some(text.map_err(|_| Close::new("ApiVersions: the cluster id is not UTF-8"))?);
        }
        node_id = rest.try_get_i32().map_err(|_| short())?;
        let mut version_4 = bytes::BytesMut::with_capacity(strings.len() + rest.len());
        version_4.extend_from_slice(&strings);
        version_4.extend_from_slice(&rest);
        body = version_4.freeze();
    }
    let request: ApiVersionsRequest = guard::decode(body, version.min(4))?;
    // Copied, so that what the connection keeps doesn't pin the frame.
    let copied = |text: &StrBytes| StrBytes::from_string(text.to_string());
    let software = (version >= 3)
        .then(|| (copied(&request.client_software_name), copied(&request.client_software_version)));
    Ok(Request { software, cluster_id, node_id })
}

/// The length of a compact string; the inner option is none for null.
fn compact_length(buffer: &mut Bytes) -> Option<Option<usize>> {
    let mut value = 0usize;
    for shift in [0, 7, 14, 21, 28] {
        let byte = buffer.try_get_u8().ok()?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value.checked_sub(1));
        }
    }
    None
}

pub fn start(cx: RequestContext, request: Request) -> Result<Started, Close> {
    let response = answer(&cx, request);
    let body = table::encode(&response, cx.api_version)?;
    Ok(Started::Serial(Box::pin(std::future::ready(Ok(Reply { parts: vec![Part::Bytes(body)] })))))
}

fn answer(cx: &RequestContext, request: Request) -> ApiVersionsResponse {
    if let Some((name, version)) = &request.software {
        // Kafka's rule for both: letters, digits, and `.` or `-` inside.
        if !is_software_name(name) || !is_software_name(version) {
            return ApiVersionsResponse::default().with_error_code(ResponseError::InvalidRequest.code());
        }
    }
    if let Some(software) = request.software {
        *cx.connection.software.lock() = Some(software);
    }
    let image = cx.broker.metadata.image();
    let other_cluster = request.cluster_id.is_some_and(|id| id.as_str() != image.cluster_id.to_string());
    let other_node = request.node_id >= 0 && request.node_id != cx.broker.config.node_id;
    if other_cluster || other_node {
        return ApiVersionsResponse::default().with_error_code(ResponseError::RebootstrapRequired.code());
    }
    let supported = ottla_raft::features::supported()
        .into_iter()
        .filter(|(_, range)| cx.api_version >= 4 || range.min >= 1)
        .map(|(name, range)| {
            SupportedFeatureKey::default()
                .with_name(StrBytes::from_string(name.to_string()))
                .with_min_version(range.min)
                .with_max_version(range.max)
        })
        .collect();
    let finalized = image
        .features
        .iter()
        .filter(|(_, level)| **level > 0)
        .map(|(name, level)| {
            FinalizedFeatureKey::default()
                .with_name(StrBytes::from_string(name.to_string()))
                .with_min_version_level(*level)
                .with_max_version_level(*level)
        })
        .collect();
    ApiVersionsResponse::default()
        .with_api_keys(offered(cx.connection.role))
        .with_supported_features(supported)
        .with_finalized_features(finalized)
        .with_finalized_features_epoch(image.features_epoch as i64)
}

fn is_software_name(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let at_the_ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    at_the_ends(text.chars().next()) && at_the_ends(text.chars().last()) && text.chars().all(inside)
}

/// What the table offers on a listener.
fn offered(role: ListenerRole) -> Vec<ApiVersion> {
    let mut keys: Vec<_> = table::rows()
        .iter()
        .filter(|row| row.is_served_on(role))
        .map(|row| {
            // COMPAT: librdkafka takes a lowest Produce version above 0 for a broker without Produce (KAFKA-18659).
            let min = if row.key == ApiKey::Produce as i16 { 0 } else { *row.versions.start() };
            ApiVersion::default()
                .with_api_key(row.key)
                .with_min_version(min)
                .with_max_version(*row.versions.end())
        })
        .collect();
    keys.sort_by_key(|key| key.api_key);
    keys
}

/// The body of the answer to an ApiVersions request whose version is not offered: version 0, and only this API's range
/// and the others', from which the client chooses (KIP-511).
pub fn unsupported_version(role: ListenerRole) -> Result<Bytes, Close> {
    let response = ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(offered(role));
    table::encode(&response, 0)
}
