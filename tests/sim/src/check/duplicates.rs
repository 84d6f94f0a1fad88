//! No duplicates from an idempotent producer, and the order in which it sent is the order of the offsets.
//!
//! A record id carries its producer and its number there; producers that are not idempotent have none of this promised.

use std::collections::BTreeMap;

use super::{Checker, Event};
use crate::payload;

#[derive(Default)]
pub struct Duplicates;

impl Checker for Duplicates {
    fn name(&self) -> &'static str {
        "no duplicates and no reordering from an idempotent producer"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        let Event::Final { partition, records } = event else { return Ok(()) };
        let mut last: BTreeMap<u32, (u32, i64)> = BTreeMap::new();
        for (offset, id) in records {
            if !payload::is_idempotent(*id) {
                continue;
            }
            let (producer, number) = (payload::producer(*id), payload::number(*id));
            if let Some((before, at)) = last.get(&producer).filter(|(before, _)| *before >= number) {
                return Err(format!(
                    "{partition:?}: record {number} of producer {producer} at offset {offset}, after its record {before} at {at}"
                ));
            }
            last.insert(producer, (number, *offset));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::payload::id;

    #[test]
    fn it_fires() {
        let fine = [at_the_end(&[(0, id(1, 0, true)), (1, id(2, 0, true)), (2, id(1, 4, true))])];
        assert_eq!(objects(Duplicates, &fine), None);
        let twice = [at_the_end(&[(0, id(1, 0, true)), (1, id(1, 0, true))])];
        assert_eq!(objects(Duplicates, &twice), Some(0));
        let swapped = [at_the_end(&[(0, id(1, 1, true)), (1, id(1, 0, true))])];
        assert_eq!(objects(Duplicates, &swapped), Some(0));
        let not_promised = [at_the_end(&[(0, id(1, 0, false)), (1, id(1, 0, false))])];
        assert_eq!(objects(Duplicates, &not_promised), None);
    }
}
