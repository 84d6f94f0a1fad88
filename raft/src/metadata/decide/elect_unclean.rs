//! ElectUnclean: leaders for partitions that have none. Asked by the active controller at every
//! `unclean.leader.election.interval.ms`: a topic whose config came to allow unclean elections has waited for it.

use super::Draft;
use crate::requests::{ElectUnclean, UpkeepDone};

pub(super) fn decide(ElectUnclean {}: &ElectUnclean, draft: &mut Draft<'_>) -> UpkeepDone {
    let leaderless = draft.image.leaderless.clone();
    let _ = draft.change_leaderless(leaderless.iter(), |_, _| true);
    UpkeepDone
}
