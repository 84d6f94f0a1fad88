//! Replicas agree up to the high watermark, byte for byte: what one replica holds below its high watermark is the same in
//! every replica that knows as much, then and later.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Checker, Event};

#[derive(Default)]
pub struct Replicas {
    /// By partition and base offset: the batch's digest, and whose it was first.
    batches: BTreeMap<(Uuid, i32), BTreeMap<i64, (u64, i32)>>,
}

impl Checker for Replicas {
    fn name(&self) -> &'static str {
        "replicas agree up to the high watermark"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        let Event::Replica { node, topic, partition, batches } = event else { return Ok(()) };
        let known = self.batches.entry((*topic, *partition)).or_default();
        for (base_offset, digest) in batches {
            let (first_digest, first_node) = known.entry(*base_offset).or_insert((*digest, *node));
            if first_digest != digest {
                return Err(format!(
                    "{topic}-{partition}: the batch at {base_offset} is not the same on nodes {first_node} and {node}"
                ));
            }
        }
        // One batch more or less in the middle is another split of the same offsets.
        if let (Some((start, _)), Some((end, _))) = (batches.first_key_value(), batches.last_key_value())
            && let Some((missing, (_, first_node))) =
                known.range(start..=end).find(|(base_offset, _)| !batches.contains_key(base_offset))
        {
            return Err(format!(
                "{topic}-{partition}: node {node} has no batch at {missing}, and node {first_node} had"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn replica(node: i32, batches: &[(i64, u64)]) -> Event {
        let batches = batches.iter().copied().collect();
        Event::Replica { node, topic: Uuid::from_u128(1), partition: 0, batches }
    }

    #[test]
    fn it_fires() {
        let fine =
            [replica(1, &[(0, 7), (5, 8)]), replica(2, &[(0, 7)]), replica(2, &[(0, 7), (5, 8), (9, 9)])];
        assert_eq!(objects(Replicas::default(), &fine), None);
        assert_eq!(objects(Replicas::default(), &[replica(1, &[(0, 7)]), replica(2, &[(0, 8)])]), Some(1));
        let hole = [replica(1, &[(0, 7), (5, 8), (9, 9)]), replica(2, &[(0, 7), (9, 9)])];
        assert_eq!(objects(Replicas::default(), &hole), Some(1));
        let split = [replica(1, &[(0, 7), (9, 9)]), replica(2, &[(0, 7), (5, 8), (9, 9)])];
        assert_eq!(
            objects(Replicas::default(), &[split[0].clone(), split[1].clone(), split[0].clone()]),
            Some(2)
        );
    }
}
