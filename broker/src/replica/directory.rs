//! From a topic (by name or id) and a partition number to the replica, for every produced and fetched partition: two
//! lookups in immutable maps, no lock, no allocation.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ottla_raft::TopicId;

use super::partition::Replica;

/// The local replicas of one topic, by partition number.
#[derive(Debug)]
pub struct TopicReplicas {
    pub name: Arc<str>,
    pub id: TopicId,
    partitions: Vec<Option<Arc<Replica>>>,
}

impl TopicReplicas {
    pub fn get(&self, partition: i32) -> Option<&Arc<Replica>> {
        usize::try_from(partition).ok().and_then(|index| self.partitions.get(index)).and_then(Option::as_ref)
    }

    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.partitions.iter().flatten()
    }
}

#[derive(Clone, Default)]
struct Maps {
    by_name: imbl::HashMap<Arc<str>, Arc<TopicReplicas>>,
    by_id: imbl::HashMap<TopicId, Arc<TopicReplicas>>,
}

/// All local replicas. Written by the manager alone, one change of metadata at a time.
#[derive(Default)]
pub struct Directory {
    maps: ArcSwap<Maps>,
}

impl Directory {
    pub fn by_name(&self, topic: &str) -> Option<Arc<TopicReplicas>> {
        self.maps.load().by_name.get(topic).cloned()
    }

    pub fn by_id(&self, topic_id: TopicId) -> Option<Arc<TopicReplicas>> {
        self.maps.load().by_id.get(&topic_id).cloned()
    }

    pub fn topics(&self) -> Vec<Arc<TopicReplicas>> {
        self.maps.load().by_id.values().cloned().collect()
    }

    /// Forgets replicas of topics that stay.
    pub fn remove(&self, replicas: &[(TopicId, i32)]) {
        if replicas.is_empty() {
            return;
        }
        let mut maps = Maps::clone(&self.maps.load());
        for (topic_id, partition) in replicas {
            let Some(topic) = maps.by_id.get(topic_id) else { continue };
            let mut partitions = topic.partitions.clone();
            if let Some(place) = usize::try_from(*partition).ok().and_then(|index| partitions.get_mut(index))
            {
                *place = None;
            }
            let topic = Arc::new(TopicReplicas { name: Arc::clone(&topic.name), id: *topic_id, partitions });
            maps.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
            maps.by_id.insert(*topic_id, topic);
        }
        self.maps.store(Arc::new(maps));
    }

    /// Adds replicas and forgets topics, in one visible step.
    pub fn change(&self, added: Vec<Arc<Replica>>, removed: &[TopicId]) {
        let mut maps = Maps::clone(&self.maps.load());
        for topic_id in removed {
            if let Some(topic) = maps.by_id.remove(topic_id) {
                // A topic created again by the same name may have taken the name's place.
                if maps.by_name.get(&topic.name).is_some_and(|named| named.id == *topic_id) {
                    maps.by_name.remove(&topic.name);
                }
            }
        }
        let mut added = added;
        added.sort_by_key(|replica| (replica.topic_id(), replica.partition()));
        for of_topic in added.chunk_by(|a, b| a.topic_id() == b.topic_id()) {
            let (name, id) = (Arc::clone(of_topic[0].topic()), of_topic[0].topic_id());
            let mut partitions = maps.by_id.get(&id).map_or_else(Vec::new, |known| known.partitions.clone());
            for replica in of_topic {
                let Ok(index) = usize::try_from(replica.partition()) else { continue };
                if partitions.len() <= index {
                    partitions.resize(index + 1, None);
                }
                partitions[index] = Some(Arc::clone(replica));
            }
            let topic = Arc::new(TopicReplicas { name: Arc::clone(&name), id, partitions });
            maps.by_name.insert(name, Arc::clone(&topic));
            maps.by_id.insert(id, topic);
        }
        self.maps.store(Arc::new(maps));
    }
}
