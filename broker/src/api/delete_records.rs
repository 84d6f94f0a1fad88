//! DeleteRecords.

use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Close> {
    Err(Close::new("DeleteRecords is not built"))
}
