//! What one seed is: the cluster, its clients, its faults. Everything is drawn before the simulation begins, so that a plan can
//! be printed and read.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::check::Acks;
use crate::cluster::{Layout, Roles};
use crate::faults::{self, Intensity, Planned};
use crate::workload::WorkTopic;
use crate::workload::group::Membership;
use crate::workload::moves::Moving;
use crate::workload::producer::Producing;

/// From the start until every node must serve and the topics must be there.
pub const FORM_MAX: Duration = Duration::from_secs(20);
/// When the first fault may begin; times of a plan are counted from when the topics are there.
const FAULTS_FROM: Duration = Duration::from_secs(2);
/// When everything is healed: with what follows, a minute in all.
const HEALED_AT: Duration = Duration::from_secs(58);

/// Of nodes that share a tier: everything happens some times a minute.
const TIER: [(&str, &str); 5] = [
    ("remote.log.storage.system.enable", "true"),
    ("ottla.tier.url", "file:///tier"),
    ("remote.log.manager.task.interval.ms", "400"),
    ("ottla.tier.segment.ms.max", "2000"),
    ("log.retention.check.interval.ms", "1500"),
];
/// What is in the tier goes from the disks: at the end most records are read from there.
const TIERED: [(&str, &str); 3] =
    [("remote.storage.enable", "true"), ("local.retention.bytes", "1"), ("file.delete.delay.ms", "1000")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One node that is all.
    One,
    /// Three, each broker and controller.
    Three,
    Five,
    /// Three controllers and three brokers.
    Apart,
}

impl Shape {
    pub const NAMES: [(&'static str, Shape); 4] =
        [("one", Shape::One), ("three", Shape::Three), ("five", Shape::Five), ("apart", Shape::Apart)];

    pub fn nodes(self) -> Vec<(i32, Roles)> {
        let both = Roles { broker: true, controller: true };
        match self {
            Shape::One => vec![(1, both)],
            Shape::Three => (1..=3).map(|id| (id, both)).collect(),
            Shape::Five => (1..=5).map(|id| (id, both)).collect(),
            Shape::Apart => (1..=3)
                .map(|id| (id, Roles { broker: true, controller: false }))
                .chain((4..=6).map(|id| (id, Roles { broker: false, controller: true })))
                .collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub layout: Layout,
    pub latency_max: Duration,
    /// The grain of simulated time. Most of a seed's real time is spent per tick and host, so a coarser one makes room for more
    /// seeds; the finest ones find what only close races show.
    pub tick: Duration,
    /// Of a disk that is in order.
    pub sync_time: (Duration, Duration),
    pub topics: Vec<WorkTopic>,
    pub producers: Vec<Producing>,
    pub readers: u32,
    pub groups: Vec<Membership>,
    /// Seeds of those who create and delete topics.
    pub churn: Vec<u64>,
    /// Who moves partitions between brokers.
    pub moves: Option<Moving>,
    pub faults: Vec<Planned>,
    pub healed_at: Duration,
}

impl Plan {
    pub fn draw(seed: u64, shape: Option<Shape>) -> Plan {
        let mut random = StdRng::seed_from_u64(seed);
        let shape = shape.unwrap_or_else(|| match random.random_range(0..10) {
            0 => Shape::One,
            1 => Shape::Five,
            2 | 3 => Shape::Apart,
            _ => Shape::Three,
        });
        let nodes = shape.nodes();
        let brokers = nodes.iter().filter(|(_, roles)| roles.broker).count() as i16;
        let replication_factor = brokers.min(3);
        let min_in_sync = if replication_factor == 3 { 2 } else { 1 };
        let overrides = [
            ("default.replication.factor", replication_factor.to_string()),
            ("min.insync.replicas", min_in_sync.to_string()),
            ("offsets.topic.replication.factor", replication_factor.to_string()),
            ("offsets.topic.num.partitions", "3".to_owned()),
            ("group.initial.rebalance.delay.ms", "300".to_owned()),
            ("group.min.session.timeout.ms", "1000".to_owned()),
            ("auto.create.topics.enable", "false".to_owned()),
            // The simulated network repeats nothing: what a kernel would send again once a cut is over is lost with its connection.
            ("replica.socket.timeout.ms", "4000".to_owned()),
            // A compacted log has no longer what it had.
            ("log.cleaner.enable", "false".to_owned()),
            ("log.flush.offset.checkpoint.interval.ms", "4000".to_owned()),
            ("log.initial.task.delay.ms", "2000".to_owned()),
        ];
        let mut overrides: Vec<(String, String)> =
            overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        // Drawn from nothing: what else a seed is does not depend on it.
        let is_tiered = seed % 4 >= 2;
        if is_tiered {
            overrides.extend(TIER.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        let layout = Layout { nodes, overrides };

        let mut topics: Vec<WorkTopic> = (0..random.random_range(1..=2))
            .map(|index| WorkTopic {
                name: format!("work-{index}"),
                partitions: random.random_range(1..=3),
                replication_factor,
                configs: match random.random_bool(0.5) {
                    // Small enough to roll now and then.
                    true => vec![("segment.bytes".to_owned(), "1048576".to_owned())],
                    false => Vec::new(),
                },
            })
            .collect();
        if is_tiered {
            let tiered = TIERED.map(|(key, value)| (key.to_owned(), value.to_owned()));
            topics.iter_mut().for_each(|topic| topic.configs.extend(tiered.clone()));
        }
        let readers = random.random_range(1..=2);
        let producers: Vec<Producing> = (1..=random.random_range(2..=4))
            .map(|number| {
                let (acks, idempotent) = match random.random_range(0..6) {
                    0 => (Acks::None, false),
                    1 => (Acks::Leader, false),
                    2 => (Acks::All, false),
                    _ => (Acks::All, true),
                };
                Producing {
                    number,
                    topics: topics.clone(),
                    acks,
                    idempotent,
                    pause: Duration::from_millis(random.random_range(5..150)),
                    burst_max: random.random_range(1..12),
                    in_flight_max: random.random_range(1..=5),
                    seed: random.random(),
                }
            })
            .collect();
        let groups: Vec<Membership> = (0..random.random_range(0..=3))
            .map(|number| Membership {
                group: "group".to_owned(),
                number,
                topics: topics.clone(),
                stay: Duration::from_secs(random.random_range(5..40)),
                cooperative: seed.is_multiple_of(2),
                seed: random.random(),
            })
            .collect();
        let intensity = Intensity {
            machines_every: Duration::from_millis(random.random_range(2_000..15_000)),
            network_every: Duration::from_millis(random.random_range(2_000..15_000)),
        };
        let clients: Vec<String> = (producers.iter())
            .map(|spec: &Producing| format!("producer-{}", spec.number))
            .chain((0..readers).map(|number| format!("reader-{number}")))
            .chain(groups.iter().map(|spec: &Membership| format!("{}-{}", spec.group, spec.number)))
            .collect();
        let ids: Vec<i32> = layout.nodes.iter().map(|(id, _)| *id).collect();
        let faults = faults::plan(&mut random, &ids, &clients, FAULTS_FROM, HEALED_AT, intensity);
        let moving = Moving {
            topics: topics.clone(),
            brokers: layout.brokers().collect(),
            pause: Duration::from_millis(random.random_range(500..8_000)),
            seed: random.random(),
        };
        let moves = (moving.brokers.len() > 1 && random.random_bool(0.4)).then_some(moving);
        let sync_min = Duration::from_micros(random.random_range(100..2_000));
        Plan {
            seed,
            layout,
            latency_max: Duration::from_millis(random.random_range(1..12)),
            tick: Duration::from_millis(random.random_range(1..=3)),
            sync_time: (sync_min, sync_min * random.random_range(1..8)),
            topics,
            producers,
            readers,
            groups,
            moves,
            churn: (0..random.random_range(0..=1)).map(|_| random.random()).collect(),
            faults,
            healed_at: HEALED_AT,
        }
    }
}
