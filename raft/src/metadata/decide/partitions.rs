//! What the requests share that change partitions: the settings that a topic's elections follow, and how a broker's coming
//! and going reaches the partitions that it has replicas of.

use std::sync::Arc;

use uuid::Uuid;

use super::{CHANGES_PER_STEP_MAX, Draft};
use crate::metadata::election::{Election, Proposal, Rules, decide_partition_change};
use crate::metadata::features;
use crate::metadata::ids::{BrokerId, TopicId};
use crate::metadata::image::{Image, Partition, Topic};
use crate::metadata::records::{ConfigResource, PartitionChange, Record};

pub(super) const MIN_ISR_KEY: &str = "min.insync.replicas";
const UNCLEAN_ELECTION_KEY: &str = "unclean.leader.election.enable";
const DURABILITY_KEY: &str = "ottla.durability";

/// Whether all was done, or as much as one step may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Progress {
    Done,
    Unfinished,
}

/// How a broker's replicas leave.
#[derive(Clone, Copy)]
pub(super) enum Leaving<'a> {
    /// They keep what they have acknowledged.
    Complete,
    /// The broker comes back as another process.
    Restarted {
        /// The process before said that it stopped with everything synced.
        is_clean: bool,
        /// What it has now: a replica on another directory is lost.
        log_dirs: &'a [Uuid],
    },
}

/// What a topic's elections follow.
pub(super) struct TopicRules {
    pub elr: bool,
    pub min_isr: usize,
    /// `Unclean` where that is allowed.
    pub election: Election,
    /// A replica that stopped without a word may have lost what it acknowledged. Kafka has to assume so; under
    /// `ottla.durability=fsync` a replica acknowledges only what it synced.
    pub acknowledges_unsynced: bool,
}

impl Draft<'_> {
    pub(super) fn elr_enabled(&self) -> bool {
        self.image.features.get(features::ELR_VERSION).is_some_and(|level| *level > 0)
    }

    pub(super) fn topic_rules(&self, topic: &str) -> TopicRules {
        // Kafka's order: the topic's config, the brokers' dynamic default, the static setting.
        let setting = |key| {
            self.image
                .config(&ConfigResource::topic(topic), key)
                .or_else(|| self.image.config(&ConfigResource::all_brokers(), key))
        };
        let statics = &self.context.static_settings;
        let unclean = setting(UNCLEAN_ELECTION_KEY)
            .map_or(statics.unclean_leader_election, |value| value.eq_ignore_ascii_case("true"));
        TopicRules {
            elr: self.elr_enabled(),
            min_isr: min_isr(setting(MIN_ISR_KEY).map(|value| &**value), statics.min_insync_replicas),
            election: if unclean { Election::Unclean } else { Election::Online },
            acknowledges_unsynced: setting(DURABILITY_KEY)
                .map_or(statics.acknowledges_unsynced, |value| value.eq_ignore_ascii_case("memory")),
        }
    }

    /// The change that makes of the partition what is proposed. `gone` is not elected, whatever the image says.
    pub(super) fn partition_change(
        &self,
        topic: &Topic,
        partition: i32,
        state: &Partition,
        proposal: &Proposal,
        rules: &TopicRules,
        gone: Option<BrokerId>,
    ) -> Option<PartitionChange> {
        let may_lead = |id| match proposal.directory {
            Some((broker, directory)) if broker == id => self
                .image
                .broker(id)
                .is_some_and(|broker| broker.is_active() && broker.has_directory(directory)),
            _ => self.image.may_lead(id, state),
        };
        let rules = Rules {
            elr: rules.elr,
            min_isr: rules.min_isr,
            may_lead: &|id| Some(id) != gone && may_lead(id),
            default_directory: &|id| default_directory(&self.image, id),
        };
        decide_partition_change(topic.id, partition, state, proposal, &rules)
    }

    /// Changes all partitions for which `decide` has something, as many as this step may.
    pub(super) fn change_partitions(
        &mut self,
        mut decide: impl FnMut(&Draft<'_>, &Topic, i32, &Partition) -> Option<PartitionChange>,
    ) -> Progress {
        let mut changes = Vec::new();
        let mut progress = Progress::Done;
        'topics: for topic in self.image.topics.values() {
            for (partition, state) in (0..).zip(&topic.partitions) {
                let Some(change) = decide(self, topic, partition, state) else { continue };
                if self.step_changes + changes.len() >= CHANGES_PER_STEP_MAX {
                    progress = Progress::Unfinished;
                    break 'topics;
                }
                changes.push(change);
            }
        }
        self.step_changes += changes.len();
        for change in changes {
            self.push(Record::PartitionChanged(change));
        }
        self.is_unfinished |= progress == Progress::Unfinished;
        progress
    }

    /// As `change_partitions`, by proposals for those that are affected. `gone` is not elected.
    pub(super) fn propose_to_partitions(
        &mut self,
        gone: Option<BrokerId>,
        is_affected: impl Fn(&Partition) -> bool,
        propose: impl Fn(&Partition, &TopicRules) -> Proposal,
    ) -> Progress {
        let mut known: Option<(TopicId, TopicRules)> = None;
        self.change_partitions(|draft, topic, partition, state| {
            if !is_affected(state) {
                return None;
            }
            if known.as_ref().is_none_or(|(id, _)| *id != topic.id) {
                known = Some((topic.id, draft.topic_rules(&topic.name)));
            }
            let (_, rules) = known.as_ref()?;
            draft.partition_change(topic, partition, state, &propose(state, rules), rules, gone)
        })
    }

    /// Takes the broker's replicas out of the in-sync sets and leaderships. Comes before the record that says that the broker
    /// is gone, so that no step leaves a leader that is not there.
    pub(super) fn remove_from_leadership(
        &mut self,
        gone: BrokerId,
        leaving: Leaving<'_>,
        is_affected: impl Fn(&Partition) -> bool,
    ) -> Progress {
        self.propose_to_partitions(
            Some(gone),
            |state| {
                let is_listed =
                    state.leader == Some(gone) || state.isr.contains(&gone) || state.elr.contains(&gone);
                is_listed && is_affected(state)
            },
            |state, rules| {
                let has_lost_data = match leaving {
                    Leaving::Complete => false,
                    Leaving::Restarted { is_clean, log_dirs } => {
                        let directory = state.directory(gone);
                        let is_on_another_directory =
                            !directory.is_nil() && !log_dirs.is_empty() && !log_dirs.contains(&directory);
                        is_on_another_directory || (!is_clean && rules.acknowledges_unsynced)
                    }
                };
                Proposal {
                    isr: Some(state.isr.iter().copied().filter(|id| *id != gone).collect()),
                    unclean_shutdown: has_lost_data.then_some(gone),
                    ..Proposal::new(rules.election)
                }
            },
        )
    }

    /// Elects leaders for the partitions that have none and could have one since the broker is there.
    pub(super) fn offer_leadership(&mut self, back: BrokerId) -> Progress {
        if self.image.leaderless.is_empty() {
            return Progress::Done;
        }
        let leaderless = self.image.leaderless.clone();
        self.change_leaderless(leaderless.iter(), |state, _| state.replicas.contains(&back))
    }

    /// As `propose_to_partitions`, for partitions without a leader.
    pub(super) fn change_leaderless<'a>(
        &mut self,
        leaderless: impl Iterator<Item = &'a (TopicId, i32)>,
        is_affected: impl Fn(&Partition, &TopicRules) -> bool,
    ) -> Progress {
        let mut known: Option<(Arc<Topic>, TopicRules)> = None;
        for (id, partition) in leaderless {
            let (topic, rules) = match known.take() {
                Some(known) if known.0.id == *id => known,
                _ => {
                    let Some(topic) = self.image.topic_by_id(*id).cloned() else { continue };
                    let rules = self.topic_rules(&topic.name);
                    (topic, rules)
                }
            };
            if let Some(state) = topic.partition(*partition)
                && is_affected(state, &rules)
                && let Some(change) = self.partition_change(
                    &topic,
                    *partition,
                    state,
                    &Proposal::new(rules.election),
                    &rules,
                    None,
                )
            {
                if self.step_changes >= CHANGES_PER_STEP_MAX {
                    self.is_unfinished = true;
                    return Progress::Unfinished;
                }
                self.step_changes += 1;
                self.push(Record::PartitionChanged(change));
            }
            known = Some((topic, rules));
        }
        Progress::Done
    }
}

/// The value of `min.insync.replicas`, from a dynamic config if there is one.
pub(super) fn min_isr(dynamic: Option<&str>, fixed: i32) -> usize {
    let value = dynamic.and_then(|value| value.trim().parse().ok()).unwrap_or(fixed);
    usize::try_from(value).unwrap_or(1).max(1)
}

/// Where a new replica of the broker lies: a broker with one directory leaves no choice.
pub(super) fn default_directory(image: &Image, id: BrokerId) -> Uuid {
    match image.broker(id).map(|broker| &*broker.log_dirs) {
        Some([only]) => *only,
        _ => Uuid::nil(),
    }
}
