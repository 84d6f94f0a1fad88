//! DescribeTopicPartitions.

use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, Close> {
    Err(Close::new("DescribeTopicPartitions is not built"))
}
