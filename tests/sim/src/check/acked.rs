//! Acknowledged records are never lost: what was acknowledged with acks=all, and what any reader was handed, is in the
//! partition at the end, at that offset.

use std::collections::BTreeMap;

use super::{Acks, Checker, Event, RecordId, TopicPartition};

#[derive(Default)]
pub struct Acked {
    promised: BTreeMap<TopicPartition, BTreeMap<i64, (RecordId, String)>>,
    read_to_the_end: BTreeMap<TopicPartition, BTreeMap<i64, RecordId>>,
}

impl Checker for Acked {
    fn name(&self) -> &'static str {
        "acked records are never lost"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Acked { producer, partition, offset, id, acks: Acks::All } => {
                let promised = self.promised.entry(partition.clone()).or_default();
                promised.entry(*offset).or_insert((*id, format!("acknowledged to producer {producer}")));
            }
            Event::Read { reader, partition, records, .. } => {
                let promised = self.promised.entry(partition.clone()).or_default();
                for (offset, id) in records {
                    promised.entry(*offset).or_insert((*id, format!("read by {reader}")));
                }
            }
            Event::Corrupt { partition, offset, found } => {
                return Err(format!("{partition:?} has at offset {offset} what nobody wrote: {found}"));
            }
            Event::Final { partition, records } => {
                self.read_to_the_end.insert(partition.clone(), records.iter().copied().collect());
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        let mut lost = Vec::new();
        for (partition, promised) in &self.promised {
            let Some(found) = self.read_to_the_end.get(partition) else {
                return Err(format!("{partition:?} was not read at the end"));
            };
            for (offset, (id, how)) in promised {
                match found.get(offset) {
                    Some(there) if there == id => {}
                    Some(other) => {
                        lost.push(format!("{partition:?} offset {offset}: {id:x} ({how}) became {other:x}"));
                    }
                    None => lost.push(format!("{partition:?} offset {offset}: {id:x} ({how}) is gone")),
                }
            }
        }
        match lost.len() {
            0 => Ok(()),
            count => Err(format!("{count} records, the first: {}", lost[..count.min(5)].join("; "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn it_fires() {
        let kept = [acked(1, 0, 10, Acks::All), acked(1, 1, 11, Acks::Leader), at_the_end(&[(0, 10)])];
        assert_eq!(objects(Acked::default(), &kept), None, "acks=1 promises nothing");
        let gone = [acked(1, 0, 10, Acks::All), acked(1, 1, 11, Acks::All), at_the_end(&[(0, 10)])];
        assert_eq!(objects(Acked::default(), &gone), Some(3));
        let changed = [acked(1, 0, 10, Acks::All), at_the_end(&[(0, 12)])];
        assert_eq!(objects(Acked::default(), &changed), Some(2));
        let seen_and_gone = [read("r", &[(0, 10)], 1), at_the_end(&[])];
        assert_eq!(objects(Acked::default(), &seen_and_gone), Some(2));
        let never_read = [acked(1, 0, 10, Acks::All)];
        assert_eq!(objects(Acked::default(), &never_read), Some(1));
    }
}
