//! ElectLeaders (KIP-460): the preferred leader, or any living replica where data loss is accepted.

use std::sync::Arc;

use super::Draft;
use crate::metadata::election::{Election, Proposal};
use crate::metadata::image::Topic;
use crate::metadata::records::Record;
use crate::requests::{ElectLeaderError, ElectLeaderResult, ElectLeaders, ElectionType};

pub(super) fn decide(request: &ElectLeaders, draft: &mut Draft<'_>) -> Vec<ElectLeaderResult> {
    match &request.partitions {
        Some(partitions) => partitions
            .iter()
            .map(|(topic, partition)| ElectLeaderResult {
                topic: topic.clone(),
                partition: *partition,
                result: elect_named(topic, *partition, request.election, draft),
            })
            .collect(),
        None => {
            let topics: Vec<Arc<Topic>> = draft.image.topics_by_name().cloned().collect();
            let mut results = Vec::new();
            for topic in topics {
                for partition in 0..topic.partitions.len() as i32 {
                    let result = elect(&topic, partition, request.election, draft);
                    if result != Err(ElectLeaderError::NotNeeded) {
                        results.push(ElectLeaderResult { topic: topic.name.to_string(), partition, result });
                    }
                }
            }
            results
        }
    }
}

fn elect_named(
    topic: &str,
    partition: i32,
    election: ElectionType,
    draft: &mut Draft<'_>,
) -> Result<(), ElectLeaderError> {
    let Some(found) = draft.image.topic_by_name(topic).cloned() else {
        let shown: String = topic.chars().take(super::create_topics::TOPIC_NAME_BYTES_MAX).collect();
        return Err(ElectLeaderError::UnknownTopicOrPartition(format!("there is no topic {shown}")));
    };
    elect(&found, partition, election, draft)
}

fn elect(
    topic: &Topic,
    partition: i32,
    election: ElectionType,
    draft: &mut Draft<'_>,
) -> Result<(), ElectLeaderError> {
    // Looked up again: an earlier item of this request may have moved it.
    let state = draft.image.topic_by_id(topic.id).and_then(|topic| topic.partition(partition).cloned());
    let Some(state) = state else {
        return Err(ElectLeaderError::UnknownTopicOrPartition(format!(
            "there is no partition {}-{partition}",
            topic.name
        )));
    };
    let not_needed = match election {
        ElectionType::Preferred => state.leader.is_some() && state.leader == state.replicas.first().copied(),
        ElectionType::Unclean => state.leader.is_some(),
    };
    if not_needed {
        return Err(ElectLeaderError::NotNeeded);
    }
    let kind = match election {
        ElectionType::Preferred => Election::Preferred,
        ElectionType::Unclean => Election::Unclean,
    };
    if !draft.room_for(1) {
        return Err(ElectLeaderError::LimitReached(format!(
            "the request is too large: it may write {} records",
            super::RECORDS_PER_REQUEST_MAX
        )));
    }
    let rules = draft.topic_rules(&topic.name);
    let change = draft
        .partition_change(topic, partition, &state, &Proposal::new(kind), &rules, None)
        .filter(|change| change.leader.is_some());
    match (change, election) {
        (Some(change), _) => {
            draft.push(Record::PartitionChanged(change));
            Ok(())
        }
        (None, ElectionType::Preferred) => Err(ElectLeaderError::PreferredLeaderNotAvailable),
        (None, ElectionType::Unclean) => Err(ElectLeaderError::EligibleLeadersNotAvailable),
    }
}
