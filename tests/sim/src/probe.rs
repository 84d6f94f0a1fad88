//! Looks into the nodes, from outside of simulated time: who believes to lead, what the metadata says, what lies on the disks.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use ottla_broker::node::Broker;
use ottla_storage::disk::Disk;

use crate::check::Event;
use crate::cluster::Machine;
use crate::run::digest;
use crate::world::World;

#[derive(Default)]
pub struct Probe {
    /// By node: its process as seen last, how many there were, and the metadata offset last told.
    seen: BTreeMap<i32, Seen>,
    /// What was told of leaders, so that it is told once.
    led: BTreeMap<(i32, u128, i32), i32>,
}

#[derive(Default)]
struct Seen {
    process: u32,
    broker: Option<Arc<Broker>>,
    offset: Option<u64>,
    /// The epoch in which it was the active controller last.
    controls: i32,
}

impl Probe {
    pub fn look(&mut self, world: &World, machines: &[Rc<Machine>]) {
        for machine in machines {
            let Some(broker) = machine.broker() else { continue };
            let node = machine.id;
            let seen = self.seen.entry(node).or_default();
            if seen.broker.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &broker)) {
                seen.process += 1;
                seen.broker = Some(broker.clone());
                seen.offset = None;
            }
            let image = broker.metadata.image();
            if seen.offset != Some(image.last_offset) {
                seen.offset = Some(image.last_offset);
                world.tell(Event::Image {
                    node,
                    process: seen.process,
                    offset: image.last_offset,
                    digest: digest(format!("{image:?}")),
                });
            }
            if broker.metadata.is_controller() {
                let epoch = broker.metadata.quorum().leader_epoch;
                if std::mem::replace(&mut seen.controls, epoch) != epoch {
                    world.tell(Event::Controls { node, epoch });
                }
            }
            for replica in broker.replicas.replicas() {
                let Some(epoch) = replica.leader_epoch() else { continue };
                let (topic, partition) = (replica.topic_id().0, replica.partition());
                let told = self.led.insert((node, topic.as_u128(), partition), epoch.0);
                if told != Some(epoch.0) {
                    world.tell(Event::Leads { node, topic, partition, epoch: epoch.0 });
                }
            }
        }
    }

    pub fn compare_replicas(&mut self, world: &World, machines: &[Rc<Machine>]) {
        for machine in machines {
            let Some(broker) = machine.broker() else { continue };
            let disk = Disk::simulated(&machine.disk);
            for replica in broker.replicas.replicas() {
                let name = format!("{}-{}", replica.topic(), replica.partition());
                let path = broker.replicas.log_dir_of(&replica).path().join(name);
                let Some(batches) = batches_below(&disk, &path, replica.high_watermark().0) else { continue };
                world.tell(Event::Replica {
                    node: machine.id,
                    topic: replica.topic_id().0,
                    partition: replica.partition(),
                    batches,
                });
            }
        }
    }
}

/// The node whose metadata is the newest.
fn best_informed(machines: &[Rc<Machine>]) -> Option<Arc<Broker>> {
    let brokers = machines.iter().filter_map(|machine| machine.broker());
    brokers.max_by_key(|broker| broker.metadata.image().last_offset)
}

/// The partitions that move between brokers.
pub fn moving(machines: &[Rc<Machine>]) -> Vec<String> {
    let Some(broker) = best_informed(machines) else { return Vec::new() };
    let image = broker.metadata.image();
    let partitions = image.topics_by_name().flat_map(|topic| {
        (0..).zip(&topic.partitions).filter_map(|(index, state)| {
            let moves = !(state.adding_replicas.is_empty() && state.removing_replicas.is_empty());
            moves.then(|| format!("{}-{index}", topic.name))
        })
    });
    partitions.collect()
}

/// The cluster in lines: who is up, who leads, who is in sync, and where each log ends.
pub fn describe(machines: &[Rc<Machine>]) -> Vec<String> {
    let mut lines = Vec::new();
    for machine in machines {
        let line = match machine.broker() {
            None => format!("{}: {}", machine.host(), if machine.is_up() { "starts" } else { "is down" }),
            Some(broker) => format!(
                "{}: serves, metadata up to {}, {}",
                machine.host(),
                broker.metadata.image().last_offset,
                match broker.metadata.controller_id() {
                    Some(id) => format!("controller {id}"),
                    None => "no controller".to_owned(),
                }
            ),
        };
        lines.push(line);
    }
    let Some(best) = best_informed(machines) else { return lines };
    let image = best.metadata.image();
    let fenced = image.brokers.values().filter(|broker| !broker.is_active()).map(|broker| broker.id.0);
    lines.push(format!("brokers fenced or leaving: {:?}", fenced.collect::<Vec<_>>()));
    let ids = |ids: &[ottla_raft::BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    for topic in image.topics_by_name() {
        for (index, state) in (0..).zip(&topic.partitions) {
            let replicas = machines.iter().filter_map(|machine| {
                let replica = machine.broker()?.replicas.get_by_id(topic.id, index)?;
                Some(format!(
                    "{}: {}..{}, committed {}{}",
                    machine.id,
                    replica.log_start_offset(),
                    replica.end_offset(),
                    replica.high_watermark(),
                    replica.leader_epoch().map_or(String::new(), |epoch| format!(", leads in {epoch}")),
                ))
            });
            let replicas = replicas.collect::<Vec<_>>().join("; ");
            lines.push(format!(
                "{}-{index}: leader {:?} epoch {}, in sync {:?}, eligible {:?}, replicas {:?} +{:?} -{:?} | {replicas}",
                topic.name,
                state.leader.map(|id| id.0),
                state.leader_epoch.0,
                ids(&state.isr),
                ids(&state.elr),
                ids(&state.replicas),
                ids(&state.adding_replicas),
                ids(&state.removing_replicas),
            ));
        }
    }
    lines
}

/// The digests of the batches that end below an offset, by their base offsets, from the files of a partition. `None` if there
/// are none to be read.
fn batches_below(disk: &Disk, path: &Path, end: i64) -> Option<BTreeMap<i64, u64>> {
    let mut batches = BTreeMap::new();
    for entry in disk.read_dir(path).ok()? {
        if !entry.name.ends_with(".log") {
            continue;
        }
        let file = path.join(&entry.name);
        let bytes = disk.read(&file, u64::MAX).ok()?;
        let mut rest = bytes.as_slice();
        while rest.len() > 61 {
            let base_offset = i64::from_be_bytes(rest[..8].try_into().ok()?);
            let length = 12 + i32::from_be_bytes(rest[8..12].try_into().ok()?) as usize;
            let last_offset = base_offset + i64::from(i32::from_be_bytes(rest[23..27].try_into().ok()?));
            if length > rest.len() || last_offset >= end {
                break;
            }
            batches.insert(base_offset, digest(&rest[..length]));
            rest = &rest[length..];
        }
    }
    Some(batches)
}
