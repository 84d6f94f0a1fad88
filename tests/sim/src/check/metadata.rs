//! The metadata of all nodes is one history: as of one offset every node, in every life, has the same image, and no process
//! goes back.

use std::collections::BTreeMap;

use super::{Checker, Event};

#[derive(Default)]
pub struct Metadata {
    /// By offset: the image's digest, and who showed it first.
    images: BTreeMap<u64, (u64, i32)>,
    /// By node and process: the newest offset it had.
    newest: BTreeMap<(i32, u32), u64>,
}

impl Checker for Metadata {
    fn name(&self) -> &'static str {
        "metadata is one history"
    }

    fn on(&mut self, event: &Event) -> Result<(), String> {
        let Event::Image { node, process, offset, digest } = event else { return Ok(()) };
        let newest = self.newest.entry((*node, *process)).or_default();
        if offset < newest {
            return Err(format!("node {node} went back from metadata offset {newest} to {offset}"));
        }
        *newest = *offset;
        let (known, first) = self.images.entry(*offset).or_insert((*digest, *node));
        if known != digest {
            return Err(format!("nodes {first} and {node} have different images as of offset {offset}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn image(node: i32, process: u32, offset: u64, digest: u64) -> Event {
        Event::Image { node, process, offset, digest }
    }

    #[test]
    fn it_fires() {
        let fine = [image(1, 0, 1, 10), image(2, 0, 2, 20), image(1, 0, 2, 20), image(2, 1, 1, 10)];
        assert_eq!(objects(Metadata::default(), &fine), None);
        assert_eq!(objects(Metadata::default(), &[image(1, 0, 1, 10), image(2, 0, 1, 11)]), Some(1));
        assert_eq!(objects(Metadata::default(), &[image(1, 0, 2, 10), image(1, 0, 1, 11)]), Some(1));
    }
}
