//! The point of it all: a leader that was not elected uncleanly has every committed record, and so has whoever is listed as
//! in sync or eligible.
//!
//! A model of the brokers' logs beside the controller. Leaders append, followers fetch, leaders commit what the whole in-sync
//! set has (while it is no smaller than `min.insync.replicas`), processes die with and without what they had not synced, disks
//! are replaced; and the controller is asked everything that changes partitions.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BROKERS: i32 = 4;

#[derive(Clone, Debug)]
enum Event {
    Produce,
    /// A follower takes up to so many records from the leader.
    Fetch {
        follower: i32,
        records: usize,
    },
    /// The leader proposes an in-sync set: those of the bits that are caught up, or all of the present ones of the bits.
    AlterIsr {
        members: u8,
    },
    Fence(i32),
    Heartbeat(i32),
    ShutDown(i32),
    /// The machine goes down with what was not synced, and comes back.
    Crash {
        broker: i32,
        lost: usize,
    },
    /// As `Crash`, but the session ends first.
    FencedCrash {
        broker: i32,
        lost: usize,
    },
    Restart(i32),
    ReplaceDisk(i32),
    Unregister(i32),
    Reassign(Vec<i32>),
    Cancel,
    Elect(bool),
    ElectUnclean,
    Balance,
    MinIsr(u8),
    Unclean(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let broker = 1..=BROKERS;
    let replicas = proptest::sample::subsequence((1..=BROKERS).collect::<Vec<_>>(), 1..=3).prop_shuffle();
    prop_oneof![
        8 => Just(Event::Produce),
        8 => (broker.clone(), 1..5usize).prop_map(|(follower, records)| Event::Fetch { follower, records }),
        6 => any::<u8>().prop_map(|members| Event::AlterIsr { members }),
        3 => broker.clone().prop_map(Event::Fence),
        6 => broker.clone().prop_map(Event::Heartbeat),
        1 => broker.clone().prop_map(Event::ShutDown),
        2 => (broker.clone(), 0..4usize).prop_map(|(broker, lost)| Event::Crash { broker, lost }),
        2 => (broker.clone(), 0..4usize).prop_map(|(broker, lost)| Event::FencedCrash { broker, lost }),
        1 => broker.clone().prop_map(Event::Restart),
        1 => broker.clone().prop_map(Event::ReplaceDisk),
        1 => broker.prop_map(Event::Unregister),
        2 => replicas.prop_map(Event::Reassign),
        1 => Just(Event::Cancel),
        1 => any::<bool>().prop_map(Event::Elect),
        1 => Just(Event::ElectUnclean),
        1 => Just(Event::Balance),
        1 => (1..4u8).prop_map(Event::MinIsr),
        1 => any::<bool>().prop_map(Event::Unclean),
    ]
}

struct Model {
    cluster: Cluster,
    syncs_before_it_acknowledges: bool,
    logs: BTreeMap<BrokerId, Vec<u32>>,
    committed: Vec<u32>,
    /// The directory that each broker has.
    directories: BTreeMap<i32, Uuid>,
    next_record: u32,
}

impl Model {
    fn new(syncs_before_it_acknowledges: bool) -> Model {
        let mut cluster = Cluster::with_elr(BROKERS);
        cluster.settings.acknowledges_unsynced = !syncs_before_it_acknowledges;
        cluster.create(assigned("t", &[(0, &[1, 2, 3])])).unwrap();
        let directories = (1..=BROKERS).map(|id| (id, directory(id))).collect();
        Model {
            cluster,
            syncs_before_it_acknowledges,
            logs: BTreeMap::new(),
            committed: Vec::new(),
            directories,
            next_record: 0,
        }
    }

    fn log(&self, id: BrokerId) -> &[u32] {
        self.logs.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The leader, if there is one; that it has what is committed is `check`'s.
    fn leader(&self) -> Option<BrokerId> {
        self.cluster.partition("t").leader
    }

    fn commit(&mut self) {
        let state = self.cluster.partition("t");
        let resource = ConfigResource::topic("t");
        let min_isr: usize = self
            .cluster
            .image
            .config(&resource, "min.insync.replicas")
            .map_or(1, |value| value.parse().unwrap());
        if state.leader.is_none() || state.isr.len() < min_isr.min(state.replicas.len()) {
            return;
        }
        let mut common = self.log(state.isr[0]);
        for id in &*state.isr {
            common = &common[..common_prefix(common, self.log(*id))];
        }
        if common.len() > self.committed.len() {
            self.committed = common.to_vec();
        }
    }

    fn register(&mut self, id: i32, previous_epoch: Option<BrokerEpoch>) {
        let incarnation = u128::from(self.cluster.image.last_offset) + 1000;
        let log_dirs = vec![self.directories[&id]];
        let request = RegisterBroker { previous_epoch, log_dirs, ..registration(id, incarnation, None) };
        self.cluster.submit(request).unwrap();
    }

    fn lose(&mut self, id: i32, lost: usize) {
        if !self.syncs_before_it_acknowledges
            && let Some(log) = self.logs.get_mut(&BrokerId(id))
        {
            log.truncate(log.len().saturating_sub(lost));
        }
    }

    fn take(&mut self, event: Event) {
        let before = self.cluster.partition("t");
        let epoch = |model: &Model, id| model.cluster.epoch(id);
        match event {
            Event::Produce => {
                if let Some(leader) = self.leader() {
                    self.next_record += 1;
                    self.logs.entry(leader).or_default().push(self.next_record);
                }
            }
            Event::Fetch { follower, records } => {
                let follower = BrokerId(follower);
                let is_follower = before.leader != Some(follower) && before.replicas.contains(&follower);
                if let Some(leader) = before.leader.filter(|_| is_follower) {
                    let leaders = self.log(leader).to_vec();
                    let kept = common_prefix(&leaders, self.log(follower));
                    let end = leaders.len().min(kept + records);
                    self.logs.insert(follower, leaders[..end].to_vec());
                    // It lies on the disk that the broker has now, and the broker says so.
                    let assignments = vec![(
                        self.cluster.image.topic_by_name("t").unwrap().id,
                        0,
                        self.directories[&follower.0],
                    )];
                    let broker_epoch = epoch(self, follower.0);
                    let _ = self.cluster.submit(AssignReplicasToDirs {
                        broker: follower,
                        broker_epoch,
                        assignments,
                    });
                }
            }
            Event::AlterIsr { members } => {
                if let Some(leader) = before.leader {
                    let is_caught_up = |id: &BrokerId| {
                        self.log(*id).len() >= self.committed.len()
                            && self.log(leader).starts_with(self.log(*id))
                    };
                    let isr: Vec<i32> = before
                        .replicas
                        .iter()
                        .filter(|id| **id == leader || members & (1 << id.0) != 0)
                        .filter(|id| before.isr.contains(id) || is_caught_up(id))
                        .map(|id| id.0)
                        .collect();
                    let _ = self.cluster.alter_isr("t", &isr);
                }
            }
            Event::Fence(id) => {
                let request = BrokerHeartbeat { want_fence: true, ..heartbeat(id, epoch(self, id)) };
                let _ = self.cluster.submit(request);
            }
            Event::Heartbeat(id) => {
                let _ = self.cluster.submit(heartbeat(id, epoch(self, id)));
            }
            Event::ShutDown(id) => {
                let previous = epoch(self, id);
                for other in 1..=BROKERS {
                    self.cluster.applied.insert(BrokerId(other), u64::MAX);
                }
                let request = BrokerHeartbeat { want_shut_down: true, ..heartbeat(id, previous) };
                if self.cluster.submit(request).is_ok_and(|state| state.should_shut_down) {
                    self.register(id, Some(previous));
                }
            }
            Event::Crash { broker, lost } => {
                self.lose(broker, lost);
                self.register(broker, None);
            }
            Event::FencedCrash { broker, lost } => {
                self.take(Event::Fence(broker));
                self.lose(broker, lost);
                self.register(broker, None);
            }
            Event::Restart(id) => {
                let previous = epoch(self, id);
                self.register(id, Some(previous));
            }
            Event::ReplaceDisk(id) => {
                self.directories
                    .insert(id, Uuid::from_u128(u128::from(self.cluster.image.last_offset) + 5000));
                self.logs.remove(&BrokerId(id));
                self.register(id, None);
            }
            Event::Unregister(id) => {
                let _ = self.cluster.submit(UnregisterBroker { id: BrokerId(id) });
            }
            Event::Reassign(replicas) => self.reassign(Some(brokers(&replicas))),
            Event::Cancel => self.reassign(None),
            Event::Elect(unclean) => {
                let election = if unclean { ElectionType::Unclean } else { ElectionType::Preferred };
                self.cluster.submit(ElectLeaders { election, partitions: Some(vec![("t".into(), 0)]) });
            }
            Event::ElectUnclean => {
                self.cluster.submit(ElectUnclean {});
            }
            Event::Balance => {
                self.cluster.submit(BalanceLeaders {});
            }
            Event::MinIsr(value) => {
                let change = vec![("min.insync.replicas", set(&value.to_string()))];
                alter(&mut self.cluster, ConfigResource::topic("t"), change).unwrap();
            }
            Event::Unclean(enabled) => {
                let change = vec![("unclean.leader.election.enable", set(&enabled.to_string()))];
                alter(&mut self.cluster, ConfigResource::topic("t"), change).unwrap();
            }
        }
        self.follow(&before);
        self.commit();
    }

    fn reassign(&mut self, replicas: Option<Vec<BrokerId>>) {
        let item = ReassignmentItem { topic: "t".into(), partition: 0, replicas };
        self.cluster
            .submit(AlterPartitionReassignments { items: vec![item], allow_replication_factor_change: true });
    }

    /// What brokers do when they see the new image.
    fn follow(&mut self, before: &Partition) {
        let state = self.cluster.partition("t");
        self.logs.retain(|id, _| state.replicas.contains(id));
        let is_new_leader = state.leader_epoch != before.leader_epoch && state.leader != before.leader;
        if let Some(leader) = state.leader.filter(|_| is_new_leader && state.leader_recovering) {
            // The loss is accepted, and it is marked.
            let kept = common_prefix(&self.committed, self.log(leader));
            self.committed.truncate(kept);
        }
    }

    fn check(&self) {
        let state = self.cluster.partition("t");
        for id in state.isr.iter().chain(&state.elr) {
            assert!(
                self.log(*id).starts_with(&self.committed),
                "broker {id} has {:?}, committed is {:?}: {state:?}",
                self.log(*id),
                self.committed
            );
        }
    }
}

fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn run(syncs_before_it_acknowledges: bool, events: Vec<Event>) {
    let mut model = Model::new(syncs_before_it_acknowledges);
    for event in events {
        model.take(event);
        model.check();
    }
    let before = model.cluster.partition("t");
    model.cluster.settle();
    model.follow(&before);
    model.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn committed_records_survive_where_acknowledged_is_synced(events in proptest::collection::vec(event(), 1..120)) {
        run(true, events);
    }

    #[test]
    fn committed_records_survive_where_acknowledged_is_not_synced(events in proptest::collection::vec(event(), 1..120)) {
        run(false, events);
    }
}
