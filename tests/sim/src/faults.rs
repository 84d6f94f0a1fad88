//! What breaks, when, and when it heals: drawn from the seed before the simulation begins.
//!
//! Machines and disks break independently of the network; of the network one thing is broken at a time, so that a repair
//! never repairs what another fault has broken since.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::cluster::{Death, host_name};

/// Two hosts.
pub type Link = (String, String);

#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The process dies, and starts again at the end.
    Death {
        node: i32,
        death: Death,
        seed: u64,
    },
    /// All of them at once.
    Blackout {
        seed: u64,
    },
    /// A controlled shutdown, and a start at the end.
    Restart {
        node: i32,
    },
    /// What is sent on the links between the two sides waits until the end, as behind a router that comes back.
    Held {
        links: Vec<Link>,
    },
    /// What is sent is lost, and connecting is refused.
    Cut {
        links: Vec<Link>,
    },
    /// What is sent from the first to the second is lost.
    CutOneWay {
        links: Vec<Link>,
    },
    Delayed {
        links: Vec<Link>,
        delay: Duration,
    },
    ClockStep {
        node: i32,
        error_ms: i64,
    },
    SlowDisk {
        node: i32,
        sync_max: Duration,
        seed: u64,
    },
    FullDisk {
        node: i32,
        room: u64,
    },
    /// One write or sync fails.
    BrokenDisk {
        node: i32,
        in_operations: u64,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub fault: Fault,
    pub begin: Duration,
    pub end: Duration,
}

/// How much is broken.
#[derive(Debug, Clone, Copy)]
pub struct Intensity {
    /// Mean time between the beginnings of two faults of machines.
    pub machines_every: Duration,
    /// And between the end of one of the network and the beginning of the next.
    pub network_every: Duration,
}

pub fn plan(
    random: &mut StdRng,
    nodes: &[i32],
    clients: &[String],
    from: Duration,
    until: Duration,
    intensity: Intensity,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    let some_time = |random: &mut StdRng, mean: Duration| mean.mul_f64(random.random_range(0.1..1.9));

    let mut at = from + some_time(random, intensity.machines_every);
    // Until when each machine is down: what is down cannot die.
    let mut down: Vec<(i32, Duration)> = nodes.iter().map(|node| (*node, Duration::ZERO)).collect();
    while at < until {
        let lasts = Duration::from_millis(match random.random_range(0..3) {
            0 => random.random_range(50..500),
            1 => random.random_range(500..4_000),
            _ => random.random_range(2_000..12_000),
        });
        let end = (at + lasts).min(until);
        let index = random.random_range(0..down.len());
        let (node, down_until) = down[index];
        let is_up = down_until < at;
        let fault = match random.random_range(0..20) {
            0..=4 if is_up => Some(Fault::Death { node, death: Death::PowerCut, seed: random.random() }),
            5..=8 if is_up => Some(Fault::Death { node, death: Death::Kill, seed: random.random() }),
            9..=10 if is_up => Some(Fault::Restart { node }),
            11 if down.iter().all(|(_, until)| *until < at) => {
                Some(Fault::Blackout { seed: random.random() })
            }
            12..=14 => Some(Fault::SlowDisk {
                node,
                sync_max: Duration::from_millis(random.random_range(20..1_500)),
                seed: random.random(),
            }),
            15..=16 => Some(Fault::FullDisk { node, room: random.random_range(0..20_000) }),
            17 if is_up => Some(Fault::BrokenDisk { node, in_operations: random.random_range(0..50) }),
            18..=19 => {
                let bound = *[200, 10_000, 3_600_000].choose(random).unwrap_or(&200);
                Some(Fault::ClockStep { node, error_ms: random.random_range(-bound..=bound) })
            }
            _ => None,
        };
        if let Some(fault) = fault {
            match &fault {
                Fault::Death { .. } | Fault::Restart { .. } | Fault::BrokenDisk { .. } => down[index].1 = end,
                Fault::Blackout { .. } => down.iter_mut().for_each(|(_, until)| *until = end),
                _ => {}
            }
            planned.push(Planned { fault, begin: at, end });
        }
        at += some_time(random, intensity.machines_every);
    }

    let mut at = from + some_time(random, intensity.network_every);
    while at < until {
        let end = (at + Duration::from_millis(random.random_range(100..10_000))).min(until);
        let links = match nodes.len() > 1 && random.random_bool(0.7) {
            true => between_nodes(random, nodes),
            false => to_a_client(random, nodes, clients),
        };
        let fault = match random.random_range(0..8) {
            0..=2 => Fault::Held { links },
            3..=4 => Fault::Cut { links },
            5..=6 => Fault::CutOneWay { links },
            _ => Fault::Delayed { links, delay: Duration::from_millis(random.random_range(10..400)) },
        };
        planned.push(Planned { fault, begin: at, end });
        at = end + some_time(random, intensity.network_every);
    }
    planned.sort_by_key(|planned| planned.begin);
    planned
}

/// One node from all others, one link, or the nodes in two parts.
fn between_nodes(random: &mut StdRng, nodes: &[i32]) -> Vec<Link> {
    let one = nodes[random.random_range(0..nodes.len())];
    let others = || nodes.iter().copied().filter(move |node| *node != one);
    let mut links: Vec<(i32, i32)> = match random.random_range(0..4) {
        0 | 1 => others().map(|other| (one, other)).collect(),
        2 => others().take(1).map(|other| (one, other)).collect(),
        _ => {
            let split = random.random_range(1..nodes.len());
            let (left, right) = nodes.split_at(split);
            left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))).collect()
        }
    };
    if random.random_bool(0.5) {
        links.iter_mut().for_each(|(from, to)| std::mem::swap(from, to));
    }
    links.into_iter().map(|(from, to)| (host_name(from), host_name(to))).collect()
}

/// One client from one node or from all.
fn to_a_client(random: &mut StdRng, nodes: &[i32], clients: &[String]) -> Vec<Link> {
    let client = &clients[random.random_range(0..clients.len())];
    let count = if random.random_bool(0.5) { 1 } else { nodes.len() };
    let nodes = nodes.choose_multiple(random, count);
    let mut links: Vec<Link> = nodes.map(|node| (host_name(*node), client.clone())).collect();
    if random.random_bool(0.3) {
        links.iter_mut().for_each(|(from, to)| std::mem::swap(from, to));
    }
    links
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_fault_is_drawn_and_the_same_seed_draws_the_same() {
        let seconds = Duration::from_secs;
        let intensity = Intensity { machines_every: seconds(4), network_every: seconds(4) };
        let draw = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            plan(&mut random, &[1, 2, 3], &["producer-1".to_owned()], seconds(5), seconds(45), intensity)
        };
        let mut kinds = BTreeSet::new();
        for seed in 0..200 {
            let planned = draw(seed);
            assert_eq!(planned, draw(seed));
            for fault in planned {
                assert!(seconds(5) <= fault.begin && fault.begin < fault.end && fault.end <= seconds(45));
                kinds.insert(
                    format!("{:?}", fault.fault).split([' ', '{']).next().unwrap_or_default().to_owned(),
                );
            }
        }
        assert_eq!(kinds.len(), 11, "{kinds:?}");
    }
}
