//! Where a partition's tier and the log of its leader part.
//!
//! After a clean election nowhere: what is in the tier was committed. After an unclean one the leader may never have had it, and
//! what follows in its log is of another history.

use ottla_batch::{LeaderEpoch, Offset};
use ottla_storage::log::EpochEnd;
use ottla_storage::tiering::manifest::Manifest;

/// What is asked of the leader's log.
pub struct LeadersLog<'a> {
    pub local_start: Offset,
    pub end: Offset,
    /// As `Log::end_offset_for_epoch`.
    pub end_of_epoch: &'a dyn Fn(LeaderEpoch) -> Option<EpochEnd>,
}

/// Up to where the tier is of the same history as the log; at most its end. None: it has no segment.
pub fn agreed_end(manifest: &Manifest, log: &LeadersLog<'_>) -> Option<Offset> {
    let tier_end = manifest.end_offset()?;
    // What lies below the log's first segment went there because the tier had it.
    let least = log.local_start.min(tier_end);
    let mut end = tier_end.min(log.end).max(least);
    for (epoch, start) in epochs(manifest).into_iter().rev() {
        if start >= end {
            continue;
        }
        match (log.end_of_epoch)(epoch) {
            Some(known) if known.leader_epoch == epoch => return Some(end.min(known.end_offset).max(least)),
            // The log has nothing of this epoch.
            _ => end = start.max(least),
        }
    }
    Some(end)
}

/// The leader epochs of the tier and where they begin, each once.
fn epochs(manifest: &Manifest) -> Vec<(LeaderEpoch, Offset)> {
    let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::new();
    for segment in manifest.segments() {
        for (epoch, start) in segment.epochs.iter().filter(|(_, start)| *start < segment.valid_to) {
            if epochs.last().is_none_or(|(last, _)| last < epoch) {
                epochs.push((*epoch, *start));
            }
        }
    }
    epochs
}

#[cfg(test)]
mod tests {
    use ottla_batch::TimestampMs;
    use ottla_storage::tiering::manifest::{TieredSegment, Writer};
    use uuid::Uuid;

    use super::*;

    /// (epoch, where it begins)
    type Epochs<'a> = &'a [(i32, i64)];

    fn manifest(segments: &[(i64, i64, Epochs<'_>)]) -> Manifest {
        let writer = Writer { broker: 1, leader_epoch: LeaderEpoch(0), nonce: 1 };
        let mut manifest = Manifest::first("t", Uuid::from_u128(1), 0, writer, Offset(0));
        for (base, end, epochs) in segments {
            let segment = TieredSegment {
                base_offset: Offset(*base),
                end_offset: Offset(*end),
                valid_to: Offset(*end),
                leader_epoch: LeaderEpoch(0),
                suffix: 0,
                bytes: 1,
                max_timestamp: None,
                epochs: epochs.iter().map(|(epoch, start)| (LeaderEpoch(*epoch), Offset(*start))).collect(),
            };
            manifest.add(segment, TimestampMs(0)).unwrap();
        }
        manifest
    }

    /// As the log of a leader that knows these epochs answers.
    fn agreed(manifest: &Manifest, epochs: Epochs<'_>, local_start: i64, end: i64) -> Option<i64> {
        let end_of_epoch = |asked: LeaderEpoch| {
            let next = epochs.iter().position(|(epoch, _)| *epoch > asked.0);
            let last = next.unwrap_or(epochs.len()).checked_sub(1);
            let leader_epoch = last.map_or(asked, |last| LeaderEpoch(epochs[last].0));
            if next.is_none() && leader_epoch != asked {
                return None;
            }
            let end_offset = Offset(next.map_or(end, |next| epochs[next].1));
            Some(EpochEnd { leader_epoch, end_offset })
        };
        let log =
            LeadersLog { local_start: Offset(local_start), end: Offset(end), end_of_epoch: &end_of_epoch };
        agreed_end(manifest, &log).map(|end| end.0)
    }

    #[test]
    fn where_a_log_and_the_tier_part() {
        let tier = manifest(&[(0, 100, &[(0, 0), (2, 60)]), (100, 200, &[(2, 100), (3, 150)])]);
        for (epochs, local_start, end, expected, what) in [
            (&[(0, 0), (2, 60), (3, 150)][..], 0, 300, 200, "the same, and more"),
            (&[(0, 0), (2, 60), (3, 150), (7, 200)], 0, 200, 200, "a new leader without records"),
            (&[(2, 60), (3, 150)], 200, 250, 200, "all that is in the tier is gone here"),
            (&[(0, 0), (2, 60)], 0, 180, 150, "it never heard of the last epoch"),
            (&[(0, 0), (2, 60), (4, 170)], 0, 400, 150, "and went on otherwise"),
            (&[(0, 0), (2, 60), (3, 150), (5, 180)], 0, 400, 180, "it has a part of the last epoch"),
            (&[(0, 0), (1, 40)], 0, 400, 40, "they part in the first epoch"),
            (&[(1, 0)], 0, 400, 0, "nothing in common"),
            (&[], 0, 0, 0, "an empty log"),
            (&[], 200, 200, 200, "a log whose records are all in the tier, and whose epochs were lost"),
            (&[(2, 60), (3, 150)], 60, 90, 90, "a log that ends within the tier"),
            (&[(9, 160)], 160, 400, 160, "what lies below the log is believed"),
        ] {
            assert_eq!(agreed(&tier, epochs, local_start, end), Some(expected), "{what}");
        }
        assert_eq!(agreed(&manifest(&[]), &[(0, 0)], 0, 10), None);
    }

    #[test]
    fn epochs_that_two_segments_hold_count_once() {
        let tier = manifest(&[(0, 100, &[(0, 0), (2, 60)]), (80, 200, &[(2, 80), (3, 150)])]);
        let expected = [(0, 0), (2, 60), (3, 150)].map(|(epoch, start)| (LeaderEpoch(epoch), Offset(start)));
        assert_eq!(epochs(&tier), expected);
    }
}
