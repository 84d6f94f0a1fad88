//! The high watermark never falls for a client, and a client is handed nothing at or past it.

use std::collections::BTreeMap;

use super::{Checker, Event, TopicPartition};

#[derive(Default)]
pub struct HighWatermark {
    /// By reader and partition: the highest it was told, and the next offset it may be handed.
    told: BTreeMap<(String, TopicPartition), (i64, i64)>,
}

impl Checker for HighWatermark {
    fn name(&self) -> &'static str {
        "the high watermark never falls for a client"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        let Event::Read { reader, partition, records, high_watermark } = event else { return Ok(()) };
        let (told, next) = self.told.entry((reader.clone(), partition.clone())).or_insert((0, 0));
        if high_watermark < told {
            return Err(format!("{reader} was told {told} for {partition:?}, and then {high_watermark}"));
        }
        *told = *high_watermark;
        for (offset, _) in records {
            if offset >= high_watermark {
                return Err(format!(
                    "{reader} was handed offset {offset} of {partition:?}, whose high watermark was {high_watermark}"
                ));
            }
            // Nothing is compacted or deleted here: reads have no gaps.
            if offset != next {
                return Err(format!(
                    "{reader} was handed offset {offset} of {partition:?} instead of {next}"
                ));
            }
            *next = offset + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn it_fires() {
        let fine = [read("a", &[(0, 1), (1, 2)], 5), read("b", &[(0, 1)], 2), read("a", &[(2, 3)], 5)];
        assert_eq!(objects(HighWatermark::default(), &fine), None);
        let falls = [read("a", &[(0, 1)], 5), read("a", &[(1, 2)], 4)];
        assert_eq!(objects(HighWatermark::default(), &falls), Some(1));
        assert_eq!(objects(HighWatermark::default(), &[read("a", &[(0, 1)], 0)]), Some(0));
        let gap = [read("a", &[(0, 1)], 5), read("a", &[(2, 2)], 5)];
        assert_eq!(objects(HighWatermark::default(), &gap), Some(1));
    }
}
