//! What the handlers of group APIs share: taking strings out of a request.

use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;

use super::{Close, RequestContext};

/// The records of `__consumer_offsets` hold strings of at most 32,767 bytes; a member id is made of a client id or
/// instance id and a uuid. Clients cannot send longer ones in the older versions anyway.
const STRING_BYTES_MAX: usize = 32_700;

/// An owned copy: what a group keeps must not keep the request's frame.
pub fn owned(text: &StrBytes) -> Result<Arc<str>, Close> {
    if text.len() > STRING_BYTES_MAX {
        return Err(Close::new(format!("a string of {} bytes in a request about groups", text.len())));
    }
    Ok(Arc::from(text.as_str()))
}

pub fn owned_option(text: &Option<StrBytes>) -> Result<Option<Arc<str>>, Close> {
    text.as_ref().map(owned).transpose()
}

pub fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The client's id as it is kept of a member.
pub fn client_id(cx: &RequestContext) -> Result<Arc<str>, Close> {
    cx.client_id.as_ref().map_or_else(|| Ok(Arc::from("")), owned)
}

/// COMPAT: as Java prints an address without a host name; tools show it as it is.
pub fn client_host(cx: &RequestContext) -> Arc<str> {
    format!("/{}", cx.connection.peer.ip().to_canonical()).into()
}

/// AuthorizedOperations of a group where nobody is restricted: READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS.
pub const ALL_GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
