//! Groups: a partition has one owner in a generation, and what was committed never goes back by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Event, TopicPartition};

type Committed = BTreeMap<(String, TopicPartition), i64>;

#[derive(Default)]
pub struct Groups {
    /// By group and generation: the owner of each partition.
    owners: BTreeMap<(String, i32), BTreeMap<TopicPartition, String>>,
    /// The highest offset that a commit was acknowledged for, or that was seen.
    committed: Committed,
    /// `committed` when an OffsetFetch was sent, by its number: what it must not fall behind.
    asked: BTreeMap<u64, Committed>,
    /// Commits whose fate their member does not know: a late one goes back without anybody's fault.
    unknown: BTreeSet<(String, TopicPartition, i64)>,
}

impl Groups {
    fn assigned(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<(), String> {
        let owners = self.owners.entry((group.to_owned(), generation)).or_default();
        for partition in partitions {
            let owner = owners.entry(partition.clone()).or_insert_with(|| member.to_owned());
            if owner != member {
                return Err(format!(
                    "group {group}, generation {generation}: {partition:?} belongs to {owner} and to {member}"
                ));
            }
        }
        Ok(())
    }
}

impl Checker for Groups {
    fn name(&self) -> &'static str {
        "one owner per partition and generation, and committed offsets never go back"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Assigned { group, generation, member, partitions } => {
                self.assigned(group, *generation, member, partitions)
            }
            Event::Committed { group, partition, offset } => {
                let known = self.committed.entry((group.clone(), partition.clone())).or_insert(*offset);
                *known = (*known).max(*offset);
                Ok(())
            }
            Event::CommitUnknown { group, partition, offset } => {
                self.unknown.insert((group.clone(), partition.clone(), *offset));
                Ok(())
            }
            Event::CommittedAsked { number } => {
                self.asked.insert(*number, self.committed.clone());
                Ok(())
            }
            Event::CommittedSeen { number, group, partition, offset } => {
                let key = (group.clone(), partition.clone());
                let floor = self.asked.get(number).and_then(|asked| asked.get(&key)).copied();
                if let Some(floor) = floor
                    && offset.is_none_or(|offset| offset < floor)
                {
                    let excused = offset.is_some_and(|offset| {
                        self.unknown.contains(&(group.clone(), partition.clone(), offset))
                    });
                    if !excused {
                        return Err(format!(
                            "group {group}: {partition:?} was committed at {floor} and is at {offset:?}"
                        ));
                    }
                }
                if let Some(offset) = offset {
                    let known = self.committed.entry(key).or_insert(*offset);
                    *known = (*known).max(*offset);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn assigned(generation: i32, member: &str, index: i32) -> Event {
        let partitions = BTreeSet::from([partition(index)]);
        Event::Assigned { group: "g".into(), generation, member: member.into(), partitions }
    }

    fn committed(offset: i64) -> Event {
        Event::Committed { group: "g".into(), partition: partition(0), offset }
    }

    fn asked(number: u64) -> Event {
        Event::CommittedAsked { number }
    }

    fn seen(number: u64, offset: Option<i64>) -> Event {
        Event::CommittedSeen { number, group: "g".into(), partition: partition(0), offset }
    }

    #[test]
    fn it_fires() {
        let moved = [assigned(1, "a", 0), assigned(1, "b", 1), assigned(2, "b", 0)];
        assert_eq!(objects(Groups::default(), &moved), None);
        let two_owners = [assigned(1, "a", 0), assigned(1, "b", 0)];
        assert_eq!(objects(Groups::default(), &two_owners), Some(1));
        let forward =
            [asked(1), seen(1, None), committed(5), asked(2), seen(2, Some(5)), asked(3), seen(3, Some(7))];
        assert_eq!(objects(Groups::default(), &forward), None);
        let overtaken = [committed(5), asked(1), committed(7), seen(1, Some(5))];
        assert_eq!(objects(Groups::default(), &overtaken), None, "it was asked before");
        assert_eq!(objects(Groups::default(), &[committed(5), asked(1), seen(1, Some(4))]), Some(2));
        assert_eq!(objects(Groups::default(), &[committed(5), asked(1), seen(1, None)]), Some(2));
        let back = [asked(1), seen(1, Some(5)), asked(2), seen(2, Some(4))];
        assert_eq!(objects(Groups::default(), &back), Some(3));
        let late = Event::CommitUnknown { group: "g".into(), partition: partition(0), offset: 4 };
        assert_eq!(objects(Groups::default(), &[late, committed(5), asked(1), seen(1, Some(4))]), None);
    }
}
