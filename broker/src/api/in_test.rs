//! How tests ask a broker: the request goes in encoded, through its row in the table, and the answer comes back as a socket
//! would carry it.

use bytes::BytesMut;
use kafka_protocol::protocol::{Decodable, Request};

use super::{Part, RequestContext, Started, table};

/// The answer to `request` in the version of `cx`.
pub(crate) async fn call<Q: Request>(cx: RequestContext, request: &Q) -> Q::Response {
    let version = cx.api_version;
    let mut body = BytesMut::new();
    // Versions that kafka-protocol does not know have the shape of its last one.
    let known = version.min(Q::VERSIONS.max);
    request.encode(&mut body, known).unwrap();
    let started = table::row(Q::KEY).unwrap().start(cx, body.freeze()).unwrap();
    let reply = match started {
        Started::Serial(answer) | Started::Pipelined(answer) => answer.await.unwrap(),
        Started::Silent => panic!("no answer"),
    };
    let mut joined = BytesMut::new();
    for part in reply.parts {
        match part {
            Part::Bytes(bytes) => joined.extend_from_slice(&bytes),
            Part::Slice(slice) => joined.extend_from_slice(&slice.read().unwrap()),
        }
    }
    let mut joined = joined.freeze();
    let response = Q::Response::decode(&mut joined, known).unwrap();
    assert!(joined.is_empty(), "{} bytes after the response", joined.len());
    response
}
