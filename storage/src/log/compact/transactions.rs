//! Which batches belong to aborted transactions, and which markers are still needed, as a compaction walks along the log.
//!
//! A marker stays as long as a batch of its transaction stays (readers of read_committed need it); after that it stays
//! until the delete horizon that its batch gets then, so that a reader who has already seen the batch meets it too.

use std::collections::{HashMap, HashSet};

use ottla_batch::{BatchHeader, ControlKind, Offset, ProducerId};

use crate::log::transaction_index::AbortedTxn;

pub(super) struct Transactions {
    /// Not reached yet, the next one last.
    ahead: Vec<AbortedTxn>,
    aborted: HashMap<ProducerId, Aborted>,
    /// Producers with a batch of a transaction that was not aborted, and whose marker was not passed yet.
    committed: HashSet<ProducerId>,
}

struct Aborted {
    txn: AbortedTxn,
    /// A batch of it was still in the log.
    has_batches: bool,
}

/// What becomes of a control batch.
pub(super) struct Marker {
    /// Nothing is left that needs it.
    pub is_obsolete: bool,
    /// It stays, and so must this entry of the transaction index.
    pub aborted: Option<AbortedTxn>,
}

impl Transactions {
    pub(super) fn new(mut aborted: Vec<AbortedTxn>) -> Transactions {
        aborted.sort_unstable_by_key(|txn| std::cmp::Reverse(txn.first_offset));
        Transactions { ahead: aborted, aborted: HashMap::new(), committed: HashSet::new() }
    }

    fn advance_to(&mut self, offset: Offset) {
        while let Some(txn) = self.ahead.pop_if(|txn| txn.first_offset <= offset) {
            self.aborted.entry(txn.producer_id).or_insert(Aborted { txn, has_batches: false });
        }
    }

    /// True: the batch belongs to an aborted transaction.
    pub(super) fn on_data_batch(&mut self, header: &BatchHeader) -> bool {
        self.advance_to(header.last_offset());
        if !header.is_transactional() {
            return false;
        }
        match self.aborted.get_mut(&header.producer_id) {
            Some(aborted) => {
                aborted.has_batches = true;
                true
            }
            None => {
                self.committed.insert(header.producer_id);
                false
            }
        }
    }

    /// `kind` is None for a batch that an earlier compaction emptied.
    pub(super) fn on_control_batch(&mut self, header: &BatchHeader, kind: Option<ControlKind>) -> Marker {
        self.advance_to(header.last_offset());
        let kept = |aborted| Marker { is_obsolete: false, aborted };
        match kind {
            None => Marker { is_obsolete: true, aborted: None },
            Some(ControlKind::Abort) => match self.aborted.remove(&header.producer_id) {
                Some(aborted) if aborted.has_batches => kept(Some(aborted.txn)),
                _ => Marker { is_obsolete: true, aborted: None },
            },
            Some(ControlKind::Commit) => {
                Marker { is_obsolete: !self.committed.remove(&header.producer_id), aborted: None }
            }
            Some(ControlKind::Other(_)) => kept(None),
        }
    }
}
