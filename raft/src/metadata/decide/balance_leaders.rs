//! BalanceLeaders: back to the preferred leaders, asked by the active controller at every
//! `leader.imbalance.check.interval.seconds` while `auto.leader.rebalance.enable` is true. As under KRaft, any partition counts
//! whose preferred leader could lead and does not.

use super::Draft;
use crate::metadata::election::{Election, Proposal};
use crate::requests::{BalanceLeaders, UpkeepDone};

pub(super) fn decide(BalanceLeaders {}: &BalanceLeaders, draft: &mut Draft<'_>) -> UpkeepDone {
    let image = draft.image.clone();
    let _ = draft.propose_to_partitions(
        None,
        |state| {
            state.replicas.first().is_some_and(|preferred| {
                state.leader != Some(*preferred)
                    && state.isr.contains(preferred)
                    && image.may_lead(*preferred, state)
            })
        },
        |_, _| Proposal::new(Election::Preferred),
    );
    // As much as one step may is as much as one round moves, for every move costs clients a look at the metadata; the next
    // round does the rest.
    draft.is_unfinished = false;
    UpkeepDone
}
