//! DescribeProducers: API key 61, version 0 (KIP-664).
//!
//! The producers whose state a partition's leader remembers; `kafka-transactions.sh describe-producers` prints it.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use ottla_batch::LeaderEpoch;
use ottla_storage::log::ActiveProducer;

use super::{Close, RequestContext};
use crate::error_map;

pub async fn handle(
    cx: RequestContext,
    request: DescribeProducersRequest,
) -> Result<DescribeProducersResponse, Close> {
    let mut response = DescribeProducersResponse::default();
    for topic in request.topics {
        let mut answered = TopicResponse::default().with_name(topic.name.clone());
        for index in topic.partition_indexes {
            let partition = PartitionResponse::default().with_partition_index(index);
            answered.partitions.push(match producers(&cx, &topic.name, index) {
                Ok(producers) => partition.with_active_producers(producers.iter().map(describe).collect()),
                Err(error) => partition.with_error_code(error.code()),
            });
        }
        response.topics.push(answered);
    }
    Ok(response)
}

fn producers(cx: &RequestContext, topic: &str, partition: i32) -> Result<Vec<ActiveProducer>, ResponseError> {
    let replica = cx.broker.replicas.find(topic, partition).map_err(|error| error_map::lookup(&error))?;
    replica.check_leader(LeaderEpoch::NONE).map_err(|error| error_map::leader(&error))?;
    Ok(replica.active_producers())
}

fn describe(producer: &ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(producer.producer_id.0))
        .with_producer_epoch(i32::from(producer.producer_epoch.0))
        .with_last_sequence(producer.last_sequence.0)
        .with_last_timestamp(producer.last_timestamp.0)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.current_txn_start_offset.map_or(-1, |offset| offset.0))
}
