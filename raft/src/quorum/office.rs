//! What a newly elected controller does before it decides anything: it waits until it has applied all that it inherited,
//! gives the brokers new sessions, and, if it is the first of its cluster, founds that.
//!
//! Founding: the voters that elected it are written into the membership with their directories, then the cluster gets its
//! name. Only from then on are requests served, and only voters with a known directory count: so whoever loses the directory
//! from which it acknowledged something is found out, because nobody takes it for what it was.

use std::collections::BTreeMap;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::SubmitError;
use super::controller::{Controller, TAKE_OVER_MAX, WriteFailure};
use super::membership::change_members;
use super::types::{Change, Member};
use crate::metadata::decide::min_isr_records;
use crate::metadata::features;
use crate::metadata::ids::cluster_id_generate;
use crate::metadata::image::Image;
use crate::metadata::records::Record;

impl Controller {
    pub(super) fn is_newly_elected(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.state.is_leader() && metrics.current_term != self.office_epoch
    }

    /// Makes sure that this node leads and is ready to decide. The epoch, and an offset that no entry has yet.
    pub(super) async fn take_office(&mut self) -> Result<(u64, u64), WriteFailure> {
        let (epoch, next_offset) = self.await_office().await?;
        if self.office_epoch == epoch {
            return Ok((epoch, next_offset));
        }
        self.tidy_membership().await?;
        let image = self.published.image();
        let records = self.initial_records(&image);
        if !records.is_empty() {
            self.write(Change { decided_in: epoch, records }).await?;
        }
        let image = self.published.image();
        self.sessions.renew(&image, self.links.take_last_leader());
        self.office_epoch = epoch;
        tracing::info!(epoch, cluster = %image.cluster_id, "this node is the active controller");
        self.await_office().await
    }

    /// Waits until this node leads and has applied everything before its own epoch. The epoch, and an offset that no entry
    /// has yet.
    async fn await_office(&self) -> Result<(u64, u64), WriteFailure> {
        let mut metrics = self.raft.metrics();
        let deadline = Instant::now() + TAKE_OVER_MAX;
        loop {
            {
                let now = metrics.borrow_watched();
                if let Err(fatal) = &now.running_state {
                    return Err(WriteFailure::Error(SubmitError::Stopped(fatal.to_string())));
                }
                if !now.state.is_leader() {
                    return Err(WriteFailure::NotLeader);
                }
                if now.last_applied.as_ref().is_some_and(|applied| applied.leader_id.term == now.current_term)
                {
                    return Ok((now.current_term, now.last_log_index.map_or(0, |last| last + 1)));
                }
            }
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    return Err(WriteFailure::Error(SubmitError::Stopped("the quorum is shut down".into())));
                }
                Err(_) => return Err(WriteFailure::NotLeader),
            }
        }
    }

    /// Writes down where this node's metadata lies and where it is reached, and in a cluster without a name the same of every
    /// voter that was heard of.
    async fn tidy_membership(&self) -> Result<(), WriteFailure> {
        let is_named = self.links.is_named();
        let mut changed: BTreeMap<u64, Member> = BTreeMap::new();
        {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            for (id, member) in metrics.membership_config.membership().nodes() {
                let mut known = member.clone();
                if *id == self.links.node_id {
                    known.directory_id = self.links.directory_id;
                    known.address = self.config.peer_address.clone();
                } else if !is_named && member.directory_id.is_nil() {
                    known.directory_id = self.links.contact(*id).directory_id.unwrap_or(Uuid::nil());
                }
                if known != *member {
                    changed.insert(*id, known);
                }
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        change_members(&self.raft, ChangeMembers::SetNodes(changed)).await.map_err(|error| match error {
            SubmitError::Stopped(_) => WriteFailure::Error(error),
            _ => WriteFailure::NotLeader,
        })
    }

    /// What the first controller of a cluster writes before anything else.
    fn initial_records(&self, image: &Image) -> Vec<Record> {
        let mut records = Vec::new();
        if !image.cluster_id.is_known() {
            let id = self.config.cluster_id.clone().unwrap_or_else(cluster_id_generate);
            records.push(Record::ClusterNamed { id });
        }
        if image.last_offset == 0 {
            let levels = features::initial().into_iter();
            records.extend(levels.map(|(name, level)| Record::FeatureLevelSet { name: name.into(), level }));
            records.extend(min_isr_records(image, &self.config.static_settings));
        }
        records
    }
}
