//! Asks for a group's committed offsets again and again.

use std::rc::Rc;
use std::time::Duration;

use ottla_clients::admin;

use super::WorkTopic;
use crate::check::{Event, TopicPartition};
use crate::world::World;

pub async fn run(world: Rc<World>, group: String, topics: Vec<WorkTopic>) {
    let cluster = world.connect(&format!("commits-of-{group}")).await;
    let partitions: Vec<TopicPartition> = topics.iter().flat_map(WorkTopic::partitions).collect();
    let mut number = 0;
    while world.working.get() {
        number += 1;
        world.tell(Event::CommittedAsked { number });
        match admin::committed(&cluster, &group, Some(&partitions)).await {
            Ok(committed) => {
                for partition in &partitions {
                    world.tell(Event::CommittedSeen {
                        number,
                        group: group.clone(),
                        partition: partition.clone(),
                        offset: committed.get(partition).map(|committed| committed.offset),
                    });
                }
            }
            Err(error) => tracing::debug!(group, %error, "committed offsets not read"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
