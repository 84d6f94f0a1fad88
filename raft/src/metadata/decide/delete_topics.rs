//! DeleteTopics, by name or by id; each topic by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Draft;
use crate::metadata::ids::TopicId;
use crate::metadata::image::Image;
use crate::metadata::records::{ConfigResource, Record};
use crate::requests::{DeleteTopicError, DeleteTopicResult, DeleteTopics, TopicReference};

const REMOTE_STORAGE_ENABLE: &str = "remote.storage.enable";

pub(super) fn decide(request: &DeleteTopics, draft: &mut Draft<'_>) -> Vec<DeleteTopicResult> {
    let mut mentions: BTreeMap<&TopicReference, usize> = BTreeMap::new();
    let mut topics: BTreeMap<TopicId, usize> = BTreeMap::new();
    for reference in &request.topics {
        let count = mentions.entry(reference).or_default();
        *count += 1;
        if *count == 1
            && let Ok((_, id)) = resolve(reference, draft)
        {
            *topics.entry(id).or_default() += 1;
        }
    }
    let mut results = Vec::with_capacity(request.topics.len());
    for reference in &request.topics {
        let Some(count) = mentions.remove(reference) else { continue };
        let result = if count > 1 {
            Err(DeleteTopicError::InvalidRequest("the request names this topic more than once".into()))
        } else {
            resolve(reference, draft).and_then(|(name, id)| match topics.get(&id) {
                Some(2..) => Err(DeleteTopicError::InvalidRequest(
                    "the request names this topic by its name and by its id".into(),
                )),
                _ => Ok((name, id)),
            })
        };
        results.push(DeleteTopicResult { reference: reference.clone(), result });
    }
    // Each deletion is two records at most, so the bound on items (`Metadata::submit`) bounds the entry too.
    for (name, id) in results.iter().filter_map(|result| result.result.as_ref().ok()) {
        if let Some(partitions) = tiered_partitions(name, *id, &draft.image) {
            draft.push(Record::TierLeft { topic: *id, name: name.clone(), partitions });
        }
        draft.push(Record::TopicDeleted { id: *id });
    }
    results
}

/// How many partitions may have objects in the tier, if any may: a leader may have put some there and not said so yet.
fn tiered_partitions(name: &Arc<str>, id: TopicId, image: &Image) -> Option<i32> {
    let count = image.topic_by_id(id)?.partitions.len() as i32;
    let is_on = image.config(&ConfigResource::topic(name.clone()), REMOTE_STORAGE_ENABLE);
    let was_on = || (0..count).any(|partition| image.tier_position(id, partition).is_some());
    (is_on.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) || was_on()).then_some(count)
}

fn resolve(reference: &TopicReference, draft: &Draft<'_>) -> Result<(Arc<str>, TopicId), DeleteTopicError> {
    let topic = match reference {
        TopicReference::Name(name) => draft.image.topic_by_name(name).ok_or(DeleteTopicError::UnknownName),
        TopicReference::Id(id) => draft.image.topic_by_id(*id).ok_or(DeleteTopicError::UnknownId),
    }?;
    Ok((topic.name.clone(), topic.id))
}
