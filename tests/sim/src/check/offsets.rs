//! Offsets are never reused: whatever clients were told or handed for an offset, it is one record, for ever.

use std::collections::BTreeMap;

use super::{Acks, Checker, Event, RecordId, TopicPartition};

#[derive(Default)]
pub struct Offsets {
    known: BTreeMap<TopicPartition, BTreeMap<i64, RecordId>>,
}

impl Offsets {
    fn note(&mut self, partition: &TopicPartition, offset: i64, id: RecordId) -> Result<(), String> {
        let known = self.known.entry(partition.clone()).or_default().entry(offset).or_insert(id);
        if *known != id {
            return Err(format!("{partition:?} offset {offset} was {known:x} and is {id:x}"));
        }
        Ok(())
    }
}

impl Checker for Offsets {
    fn name(&self) -> &'static str {
        "offsets are never reused"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        match event {
            // What only its leader had can be lost, and its offset then is another record's.
            Event::Acked { partition, offset, id, acks: Acks::All, .. } => self.note(partition, *offset, *id),
            Event::Read { partition, records, .. } | Event::Final { partition, records } => {
                records.iter().try_for_each(|(offset, id)| self.note(partition, *offset, *id))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn it_fires() {
        let fine = [acked(1, 0, 9, Acks::Leader), acked(1, 0, 10, Acks::All), read("a", &[(0, 10)], 1)];
        assert_eq!(objects(Offsets::default(), &fine), None);
        assert_eq!(
            objects(Offsets::default(), &[acked(1, 0, 10, Acks::All), read("a", &[(0, 11)], 1)]),
            Some(1)
        );
        assert_eq!(
            objects(Offsets::default(), &[read("a", &[(0, 10)], 1), read("b", &[(0, 11)], 1)]),
            Some(1)
        );
        assert_eq!(
            objects(Offsets::default(), &[acked(1, 0, 10, Acks::All), acked(2, 0, 11, Acks::All)]),
            Some(1)
        );
    }
}
