//! One leader per epoch of a partition.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Checker, Event};

#[derive(Default)]
pub struct Leaders {
    leaders: BTreeMap<(Uuid, i32, i32), i32>,
}

impl Checker for Leaders {
    fn name(&self) -> &'static str {
        "one leader per epoch"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        let Event::Leads { node, topic, partition, epoch } = event else { return Ok(()) };
        let leader = self.leaders.entry((*topic, *partition, *epoch)).or_insert(*node);
        if leader != node {
            return Err(format!("nodes {leader} and {node} lead {topic}-{partition} in epoch {epoch}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn leads(node: i32, epoch: i32) -> Event {
        Event::Leads { node, topic: Uuid::from_u128(1), partition: 0, epoch }
    }

    #[test]
    fn it_fires() {
        assert_eq!(objects(Leaders::default(), &[leads(1, 0), leads(1, 0), leads(2, 1), leads(1, 0)]), None);
        assert_eq!(objects(Leaders::default(), &[leads(1, 0), leads(2, 0)]), Some(1));
    }
}
