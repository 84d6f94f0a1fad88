//! A member of a group that comes and goes: reads what it is assigned, and commits.

use std::rc::Rc;
use std::time::Duration;

use ottla_clients::consumer::assignor::Assignor;
use ottla_clients::consumer::group::{Event as GroupEvent, GroupConfig, GroupConsumer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::WorkTopic;
use super::reader::{fetch_config, ids};
use crate::check::Event;
use crate::world::World;

#[derive(Debug, Clone)]
pub struct Membership {
    pub group: String,
    pub number: u32,
    pub topics: Vec<WorkTopic>,
    /// Leaves after about so long, and comes back as a new member.
    pub stay: Duration,
    pub cooperative: bool,
    pub seed: u64,
}

pub async fn run(world: Rc<World>, spec: Membership) {
    let mut random = StdRng::seed_from_u64(spec.seed);
    let cluster = world.connect(&format!("{}-{}", spec.group, spec.number)).await;
    let mut life = 0;
    while world.working.get() {
        life += 1;
        let mut config = GroupConfig::new(&spec.group, spec.topics.iter().map(|topic| topic.name.clone()));
        config.session_timeout = Duration::from_secs(6);
        config.rebalance_timeout = Duration::from_secs(8);
        config.heartbeat_interval = Duration::from_secs(1);
        config.commit_interval = None;
        config.fetch = fetch_config();
        config.assignors = vec![match spec.cooperative {
            true => Assignor::CooperativeSticky,
            false => Assignor::Range,
        }];
        let name = format!("member-{}.{life}", spec.number);
        let mut member = GroupConsumer::new(cluster.clone(), config);
        let stay = spec.stay.mul_f64(random.random_range(0.5..1.5));
        let leave_at = tokio::time::Instant::now() + stay;
        let mut reads = 0;
        while world.working.get() && tokio::time::Instant::now() < leave_at {
            match tokio::time::timeout(Duration::from_secs(12), member.next()).await {
                // The longest that a join takes; what is cut short here starts anew.
                Err(_) => {}
                Ok(Ok(GroupEvent::Assigned(partitions))) => world.tell(Event::Assigned {
                    group: spec.group.clone(),
                    generation: member.generation(),
                    member: name.clone(),
                    partitions,
                }),
                Ok(Ok(GroupEvent::Records(fetched))) => {
                    ids(&world, &fetched);
                    reads += 1;
                    if reads % 4 == 0 {
                        commit(&world, &spec.group, &mut member).await;
                    }
                }
                Ok(Err(error)) => {
                    // It may have tried to commit on its way.
                    tracing::debug!(name, %error, "group");
                    unknown(&world, &spec.group, &member);
                    if !error.is_retriable() && error.code().is_some() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
        let before = snapshot(&member);
        match tokio::time::timeout(Duration::from_secs(10), member.close()).await {
            Ok(Ok(())) => {}
            _ => {
                for (partition, offset) in before {
                    world.tell(Event::CommitUnknown { group: spec.group.clone(), partition, offset });
                }
            }
        }
        if random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..3_000))).await;
        }
    }
}

fn snapshot(member: &GroupConsumer) -> Vec<((String, i32), i64)> {
    let owned = member.assignment();
    let consumed = member.consumed().iter().filter(|(partition, _)| owned.contains(*partition));
    consumed.map(|(partition, offset)| (partition.clone(), *offset)).collect()
}

fn unknown(world: &World, group: &str, member: &GroupConsumer) {
    for (partition, offset) in snapshot(member) {
        world.tell(Event::CommitUnknown { group: group.to_owned(), partition, offset });
    }
}

async fn commit(world: &World, group: &str, member: &mut GroupConsumer) {
    let outcome = member.commit().await;
    match outcome {
        Ok(()) => {
            for (partition, offset) in snapshot(member) {
                world.tell(Event::Committed { group: group.to_owned(), partition, offset });
            }
        }
        Err(error) => {
            tracing::debug!(group, %error, "not committed");
            unknown(world, group, member);
        }
    }
}
