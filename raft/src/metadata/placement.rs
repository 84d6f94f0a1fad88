//! Where new partitions go: Kafka's striped, rack-aware placement.
//!
//! The replicas of a partition are spread over racks first and brokers second; leaders rotate over racks and, within a
//! rack, over its unfenced brokers. Fenced brokers take replicas only where unfenced ones do not suffice, and never the
//! first place. A placer is made per request from the brokers at that moment and a random generator that the caller
//! seeded: the same seed gives the same placement.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;

use super::ids::BrokerId;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("the replication factor must be positive, it is {0}")]
    NotPositive(i32),
    #[error("all brokers are fenced")]
    NoneUnfenced,
    #[error("replication factor {wanted} is more than the {registered} registered broker(s)")]
    TooFewBrokers { wanted: i32, registered: usize },
}

/// A broker as placement sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub id: BrokerId,
    pub rack: Option<Arc<str>>,
    pub fenced: bool,
}

pub struct Placer<'a, R: Rng> {
    random: &'a mut R,
    /// In the order in which racks take the first replica.
    racks: Vec<Rack>,
    broker_count: usize,
    unfenced_count: usize,
    /// The rack that the next partition begins with.
    offset: usize,
    /// Counts partitions placed since the last shuffle.
    round: usize,
}

struct Rack {
    unfenced: Rotation,
    fenced: Rotation,
}

impl Rack {
    fn next(&mut self, round: usize) -> Option<BrokerId> {
        self.unfenced.next(round).or_else(|| self.fenced.next(round))
    }
}

/// Gives each of its brokers once per round, beginning one further in each round.
struct Rotation {
    brokers: Vec<BrokerId>,
    offset: usize,
    index: usize,
    round: usize,
}

impl Rotation {
    fn new<R: Rng>(mut brokers: Vec<BrokerId>, random: &mut R) -> Rotation {
        brokers.sort_unstable();
        let offset = if brokers.is_empty() { 0 } else { random.random_range(0..brokers.len()) };
        Rotation { brokers, offset, index: 0, round: 0 }
    }

    fn next(&mut self, round: usize) -> Option<BrokerId> {
        if self.brokers.is_empty() {
            return None;
        }
        if self.round != round {
            self.round = round;
            self.index = 0;
            self.offset = (self.offset + 1) % self.brokers.len();
        }
        if self.index >= self.brokers.len() {
            return None;
        }
        let broker = self.brokers[(self.index + self.offset) % self.brokers.len()];
        self.index += 1;
        Some(broker)
    }

    fn shuffle<R: Rng>(&mut self, random: &mut R) {
        self.brokers.shuffle(random);
        self.round = 0;
        self.index = 0;
        self.offset = 0;
    }
}

impl<'a, R: Rng> Placer<'a, R> {
    pub fn new(candidates: impl IntoIterator<Item = Candidate>, random: &'a mut R) -> Placer<'a, R> {
        #[derive(Default)]
        struct Members {
            unfenced: Vec<BrokerId>,
            fenced: Vec<BrokerId>,
        }
        let mut by_rack: BTreeMap<Option<Arc<str>>, Members> = BTreeMap::new();
        let mut broker_count = 0;
        let mut unfenced_count = 0;
        for candidate in candidates {
            broker_count += 1;
            let members = by_rack.entry(candidate.rack).or_default();
            if candidate.fenced {
                members.fenced.push(candidate.id);
            } else {
                unfenced_count += 1;
                members.unfenced.push(candidate.id);
            }
        }
        let racks: Vec<Rack> = by_rack
            .into_values()
            .map(|members| Rack {
                unfenced: Rotation::new(members.unfenced, random),
                fenced: Rotation::new(members.fenced, random),
            })
            .collect();
        let offset = if racks.is_empty() { 0 } else { random.random_range(0..racks.len()) };
        Placer { random, racks, broker_count, unfenced_count, offset, round: 0 }
    }

    pub fn check(&self, replication_factor: i32) -> Result<(), PlacementError> {
        if replication_factor <= 0 {
            return Err(PlacementError::NotPositive(replication_factor));
        }
        if self.unfenced_count == 0 {
            return Err(PlacementError::NoneUnfenced);
        }
        if replication_factor as usize > self.broker_count {
            return Err(PlacementError::TooFewBrokers {
                wanted: replication_factor,
                registered: self.broker_count,
            });
        }
        Ok(())
    }

    /// The replicas of the next partition, the preferred leader first.
    pub fn place(&mut self, replication_factor: i32) -> Result<Vec<BrokerId>, PlacementError> {
        self.check(replication_factor)?;
        let wanted = replication_factor as usize;
        if self.round >= self.unfenced_count && self.unfenced_count > 1 {
            self.shuffle();
        }
        let mut replicas = Vec::with_capacity(wanted);
        let mut leader_rack = self.offset;
        // Ends: `check` saw an unfenced broker, and no broker was taken from this round before.
        loop {
            if let Some(broker) = self.racks[leader_rack].unfenced.next(self.round) {
                replicas.push(broker);
                break;
            }
            leader_rack = (leader_rack + 1) % self.racks.len();
        }
        let mut rack = self.offset;
        let mut skip_leader_rack = true;
        while replicas.len() < wanted {
            // The leader's rack has had its turn in the first pass over the racks.
            if skip_leader_rack && rack == leader_rack {
                skip_leader_rack = false;
            } else if let Some(broker) = self.racks[rack].next(self.round) {
                replicas.push(broker);
            }
            rack = (rack + 1) % self.racks.len();
        }
        self.round += 1;
        self.offset = (self.offset + 1) % self.racks.len();
        Ok(replicas)
    }

    /// After as many partitions as there are unfenced brokers the same stripes would come again.
    fn shuffle(&mut self) {
        self.racks.shuffle(self.random);
        for rack in &mut self.racks {
            rack.unfenced.shuffle(self.random);
            rack.fenced.shuffle(self.random);
        }
        self.round = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn brokers(spec: &[(i32, &str, bool)]) -> Vec<Candidate> {
        spec.iter()
            .map(|(id, rack, fenced)| Candidate {
                id: BrokerId(*id),
                rack: (!rack.is_empty()).then(|| (*rack).into()),
                fenced: *fenced,
            })
            .collect()
    }

    #[test]
    fn refusals() {
        let mut random = StdRng::seed_from_u64(1);
        assert_eq!(Placer::new([], &mut random).place(1), Err(PlacementError::NoneUnfenced));
        let fenced = brokers(&[(1, "", true)]);
        assert_eq!(Placer::new(fenced, &mut random).place(1), Err(PlacementError::NoneUnfenced));
        let one = brokers(&[(1, "", false)]);
        assert_eq!(Placer::new(one.clone(), &mut random).place(0), Err(PlacementError::NotPositive(0)));
        assert_eq!(
            Placer::new(one, &mut random).place(2),
            Err(PlacementError::TooFewBrokers { wanted: 2, registered: 1 })
        );
    }

    #[test]
    fn one_broker_takes_everything() {
        let mut random = StdRng::seed_from_u64(1);
        let mut placer = Placer::new(brokers(&[(7, "", false)]), &mut random);
        for _ in 0..1000 {
            assert_eq!(placer.place(1), Ok(vec![BrokerId(7)]));
        }
    }

    /// Over many seeds and shapes: no broker twice, leaders unfenced, racks as wide as possible, leaders balanced, and the same seed
    /// gives the same placement.
    #[test]
    fn spread() {
        for seed in 0..200u64 {
            let mut shape = StdRng::seed_from_u64(seed);
            let count = shape.random_range(1..12);
            let rack_count = shape.random_range(1..5);
            let candidates: Vec<Candidate> = (0..count)
                .map(|id| Candidate {
                    id: BrokerId(id),
                    rack: Some(format!("rack-{}", id % rack_count).into()),
                    fenced: id != 0 && shape.random_bool(0.2),
                })
                .collect();
            let factor = shape.random_range(1..=count);
            let place = |seed| {
                let mut random = StdRng::seed_from_u64(seed);
                let mut placer = Placer::new(candidates.clone(), &mut random);
                (0..40).map(|_| placer.place(factor)).collect::<Result<Vec<_>, _>>().unwrap()
            };
            let placed = place(seed);
            assert_eq!(placed, place(seed));
            let racks: BTreeSet<_> = candidates.iter().map(|candidate| &candidate.rack).collect();
            let unfenced: Vec<_> = candidates.iter().filter(|candidate| !candidate.fenced).collect();
            for replicas in &placed {
                let distinct: BTreeSet<_> = replicas.iter().collect();
                assert_eq!(distinct.len(), factor as usize);
                assert!(unfenced.iter().any(|candidate| candidate.id == replicas[0]));
                let used: BTreeSet<_> = replicas.iter().map(|id| &candidates[id.0 as usize].rack).collect();
                assert_eq!(used.len(), racks.len().min(factor as usize), "racks of {replicas:?}");
            }
        }
    }

    /// Racks of one, two and four brokers: a partition of three replicas is in all three, so the small rack has a replica of
    /// each, and within a rack the brokers share evenly.
    #[test]
    fn unequal_racks() {
        let mut random = StdRng::seed_from_u64(9);
        let racks = ["a", "b", "b", "c", "c", "c", "c"];
        let candidates = brokers(&(0..7).map(|id| (id, racks[id as usize], false)).collect::<Vec<_>>());
        let mut placer = Placer::new(candidates, &mut random);
        let mut held = [0; 7];
        for _ in 0..400 {
            let replicas = placer.place(3).unwrap();
            let used: BTreeSet<_> = replicas.iter().map(|id| racks[id.0 as usize]).collect();
            assert_eq!(used.len(), 3, "{replicas:?}");
            for id in replicas {
                held[id.0 as usize] += 1;
            }
        }
        assert_eq!(held[0], 400);
        assert!(held[1..3].iter().all(|count| (160..=240).contains(count)), "{held:?}");
        assert!(held[3..].iter().all(|count| (70..=130).contains(count)), "{held:?}");
    }

    #[test]
    fn leaders_are_balanced_over_equal_brokers() {
        let mut random = StdRng::seed_from_u64(3);
        let mut placer =
            Placer::new(brokers(&[(0, "a", false), (1, "b", false), (2, "c", false)]), &mut random);
        let mut leads = [0; 3];
        for _ in 0..30 {
            leads[placer.place(3).unwrap()[0].0 as usize] += 1;
        }
        assert!(leads.iter().all(|count| (5..=15).contains(count)), "{leads:?}");
    }
}
