//! InitProducerId.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Close> {
    Err(Close::new("InitProducerId is not built"))
}
