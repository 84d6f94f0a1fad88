//! The topics in a consumer's subscription (ConsumerProtocolSubscription): the only part of members' metadata that the
//! broker reads, to know which offsets a group still needs.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Adds the topics of a subscription of any version (the topics come first in all); `None` if it cannot be read.
pub fn read_topics(metadata: &[u8], topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let rest = &mut &metadata[..];
    let version = i16::from_be_bytes(take(rest)?);
    if version < 0 {
        return None;
    }
    let count = i32::from_be_bytes(take(rest)?);
    if count < 0 {
        return None;
    }
    for _ in 0..count {
        let length = usize::try_from(i16::from_be_bytes(take(rest)?)).ok()?;
        let (name, after) = rest.split_at_checked(length)?;
        *rest = after;
        topics.insert(Arc::from(std::str::from_utf8(name).ok()?));
    }
    Some(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(metadata: &[u8]) -> Option<Vec<String>> {
        let mut found = BTreeSet::new();
        read_topics(metadata, &mut found)?;
        Some(found.iter().map(|topic| topic.to_string()).collect())
    }

    #[test]
    fn topics_are_read_and_the_rest_is_left_alone() {
        let bytes = [0, 1, 0, 0, 0, 2, 0, 1, b'b', 0, 2, b'a', b'a', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(topics(&bytes), Some(vec!["aa".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn what_cannot_be_read_is_not_believed() {
        assert_eq!(topics(&[]), None);
        assert_eq!(topics(&[0, 1, 0x7f, 0xff, 0xff, 0xff]), None);
        assert_eq!(topics(&[0, 1, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(topics(&[0xff, 0xff, 0, 0, 0, 0]), None);
        assert_eq!(topics(&[0, 0, 0, 0, 0, 1, 0, 9, b'a']), None);
        assert_eq!(topics(&[0, 0, 0, 0, 0, 1, 0, 1, 0xff]), None);
    }
}
