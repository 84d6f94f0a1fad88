//! One active controller per epoch: no voter votes twice in one.

use std::collections::BTreeMap;

use super::{Checker, Event};

#[derive(Default)]
pub struct Controllers {
    controllers: BTreeMap<i32, i32>,
}

impl Checker for Controllers {
    fn name(&self) -> &'static str {
        "one active controller per epoch"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        let Event::Controls { node, epoch } = event else { return Ok(()) };
        let controller = self.controllers.entry(*epoch).or_insert(*node);
        if controller != node {
            return Err(format!("nodes {controller} and {node} are the controller of epoch {epoch}"));
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
        let controls = |node, epoch| Event::Controls { node, epoch };
        let fine = [controls(1, 1), controls(2, 2), controls(1, 1), controls(2, 3)];
        assert_eq!(objects(Controllers::default(), &fine), None);
        assert_eq!(objects(Controllers::default(), &[controls(1, 1), controls(2, 1)]), Some(1));
    }
}
