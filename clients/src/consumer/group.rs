//! A member of a consumer group, by the classic protocol (JoinGroup, SyncGroup, Heartbeat).
//!
//! `next` yields records and tells of rebalances. Heartbeats are sent by a task of their own, so a slow reader stays a
//! member. Committed is what the caller has been handed, never what was only fetched: `next` counts the records of a
//! `Fetched` as read when it is called again, or when `commit` is.
//!
//! With the cooperative assignor, partitions that stay are read on through a rebalance; with the eager one all are given
//! up first (KIP-429). In both cases offsets are committed before a partition is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::assignor::{self, Assignor, Subscription, Subscriptions};
use super::fetcher::{FetchConfig, Fetched, Fetcher};
use crate::admin::{self, Committer, OffsetSpec, TopicPartition};
use crate::cluster::{AutoCreate, Cluster};
use crate::error::ClientError;
use crate::wire::{ErrorCode, text};

#[derive(Debug, Clone)]
pub struct GroupConfig {
    pub group: String,
    /// Makes the member static (KIP-345).
    pub instance_id: Option<String>,
    pub topics: BTreeSet<String>,
    /// In the order of preference.
    pub assignors: Vec<Assignor>,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// Where to start a partition that has no committed offset.
    pub start: OffsetSpec,
    /// How often `next` commits what the caller has read; None: only rebalances, `commit` and `close` do.
    pub commit_interval: Option<Duration>,
    pub fetch: FetchConfig,
}

impl GroupConfig {
    pub fn new(group: &str, topics: impl IntoIterator<Item = String>) -> GroupConfig {
        GroupConfig {
            group: group.to_owned(),
            instance_id: None,
            topics: topics.into_iter().collect(),
            assignors: vec![Assignor::CooperativeSticky],
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(60),
            heartbeat_interval: Duration::from_secs(3),
            start: OffsetSpec::Earliest,
            commit_interval: Some(Duration::from_secs(5)),
            fetch: FetchConfig::default(),
        }
    }
}

#[derive(Debug)]
pub enum Event {
    Records(Fetched),
    /// A rebalance is over; these are the member's partitions now.
    Assigned(BTreeSet<TopicPartition>),
}

/// What the heartbeat task learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Member,
    /// The group is rebalancing: join again.
    Rebalance,
    /// The group no longer knows us: join as a new member, owning nothing.
    Lost,
    /// Another process took our instance id.
    Fenced,
}

pub struct GroupConsumer {
    cluster: Cluster,
    config: GroupConfig,
    fetcher: Fetcher,
    member_id: String,
    generation: i32,
    assignor: Option<Assignor>,
    owned: BTreeSet<TopicPartition>,
    /// Of each partition: where the caller is. Never ahead of what it was handed.
    consumed: BTreeMap<TopicPartition, i64>,
    committed: BTreeMap<TopicPartition, i64>,
    /// Handed out by the last `next`.
    handed_out: Option<(TopicPartition, i64)>,
    heartbeat: Option<(tokio::task::JoinHandle<()>, watch::Receiver<Standing>)>,
    must_join: bool,
    commit_at: Option<Instant>,
}

impl GroupConsumer {
    pub fn new(cluster: Cluster, config: GroupConfig) -> GroupConsumer {
        GroupConsumer {
            fetcher: Fetcher::new(cluster.clone(), config.fetch.clone()),
            commit_at: config.commit_interval.map(|interval| Instant::now() + interval),
            cluster,
            config,
            member_id: String::new(),
            generation: -1,
            assignor: None,
            owned: BTreeSet::new(),
            consumed: BTreeMap::new(),
            committed: BTreeMap::new(),
            handed_out: None,
            heartbeat: None,
            must_join: true,
        }
    }

    pub fn assignment(&self) -> &BTreeSet<TopicPartition> {
        &self.owned
    }

    /// Of the last join; -1 before the first.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    pub fn member_id(&self) -> &str {
        &self.member_id
    }

    /// Where the caller is in each partition: all before it has been handed out and counted as read.
    pub fn consumed(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.consumed
    }

    /// The next records or rebalance. If cancelled while joining, the join starts anew with the next call.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        self.count_as_read();
        loop {
            if self.must_join {
                self.rejoin().await?;
                return Ok(Event::Assigned(self.owned.clone()));
            }
            let Some((_, standing)) = &mut self.heartbeat else {
                self.must_join = true;
                continue;
            };
            let commit_at = self.commit_at;
            let commit_timer = async {
                match commit_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                biased;
                () = commit_timer => None,
                changed = standing.wait_for(|s| *s != Standing::Member) => {
                    Some(changed.map_or(Standing::Rebalance, |s| *s))
                }
                fetched = self.fetcher.next() => {
                    let fetched = fetched?;
                    self.handed_out = Some((fetched.partition.clone(), fetched.next_offset));
                    return Ok(Event::Records(fetched));
                }
            };
            match changed {
                Some(standing) => self.on_standing(standing)?,
                None => self.commit_on_time().await,
            }
        }
    }

    /// A failure is not the caller's: it is tried again next time, and the last commit reports it.
    async fn commit_on_time(&mut self) {
        self.commit_at = self.config.commit_interval.map(|interval| Instant::now() + interval);
        if let Err(error) = self.commit().await {
            tracing::warn!(%error, "offsets not committed");
        }
    }

    fn on_standing(&mut self, standing: Standing) -> Result<(), ClientError> {
        match standing {
            Standing::Member => {}
            Standing::Rebalance => self.must_join = true,
            Standing::Lost => self.lose_membership(),
            Standing::Fenced => {
                let label = format!("group {}", self.config.group);
                return Err(ClientError::refused(label, ErrorCode::FENCED_INSTANCE_ID));
            }
        }
        Ok(())
    }

    /// The caller is done with what it was given, as it asks for more.
    fn count_as_read(&mut self) {
        if let Some((partition, next_offset)) = self.handed_out.take() {
            self.consumed.insert(partition, next_offset);
        }
    }

    /// Says that the caller has handled only some of the records it was given last: reading goes on at `offset` if this
    /// member leaves now.
    pub fn read_up_to(&mut self, offset: i64) {
        if let Some((_, next_offset)) = &mut self.handed_out {
            *next_offset = offset.min(*next_offset);
        }
    }

    /// Commits where the caller is. What changes nothing is not sent.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.count_as_read();
        let changed: BTreeMap<TopicPartition, i64> = self
            .consumed
            .iter()
            .filter(|(partition, offset)| {
                self.owned.contains(*partition) && self.committed.get(*partition) != Some(*offset)
            })
            .map(|(partition, offset)| (partition.clone(), *offset))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let committer = Committer {
            member_id: self.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
            generation: Some(self.generation),
        };
        admin::commit(&self.cluster, &self.config.group, &committer, &changed).await?;
        self.committed.extend(changed);
        Ok(())
    }

    /// Commits before partitions are given up. A group that has moved on refuses, and then their next owner reads from
    /// the previous commit: at least once, never less.
    async fn commit_before_revoke(&mut self) -> Result<(), ClientError> {
        match self.commit().await {
            Err(error) if error.code().is_some_and(|c| matches!(c.0, 22 | 25 | 27)) => {
                tracing::warn!(%error, "offsets not committed before the rebalance");
                Ok(())
            }
            other => other,
        }
    }

    fn lose_membership(&mut self) {
        self.must_join = true;
        self.member_id.clear();
        self.generation = -1;
        self.owned.clear();
        self.consumed.clear();
        self.committed.clear();
        self.fetcher.assign(BTreeMap::new());
        self.stop_heartbeat();
    }

    fn stop_heartbeat(&mut self) {
        if let Some((task, _)) = self.heartbeat.take() {
            task.abort();
        }
    }

    /// Joins until the group is stable with us in it.
    async fn rejoin(&mut self) -> Result<(), ClientError> {
        self.commit_before_revoke().await?;
        let cooperative =
            self.assignor.or(self.config.assignors.first().copied()) == Some(Assignor::CooperativeSticky);
        if !cooperative {
            self.owned.clear();
            self.fetcher.assign(BTreeMap::new());
        }
        let mut retry = self.cluster.retry();
        loop {
            match self.join_once().await {
                Ok(assigned) => {
                    let revoked = self.owned.difference(&assigned).next().is_some();
                    if revoked {
                        self.commit_before_revoke().await?;
                    }
                    self.take_over(assigned).await?;
                    // What we gave up can only be handed out in another round (cooperative).
                    self.must_join = revoked && self.assignor == Some(Assignor::CooperativeSticky);
                    if !self.must_join {
                        return Ok(());
                    }
                }
                Err(error) => match error.code() {
                    Some(ErrorCode::REBALANCE_IN_PROGRESS) => {}
                    Some(ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION) => {
                        self.lose_membership();
                    }
                    _ => {
                        if error.code().is_none_or(|c| matches!(c.0, 15 | 16)) {
                            self.cluster.forget_coordinator(&self.config.group);
                        }
                        retry.pause_after(error).await?;
                    }
                },
            }
        }
    }

    async fn join_once(&mut self) -> Result<BTreeSet<TopicPartition>, ClientError> {
        let label = format!("group {}", self.config.group);
        self.stop_heartbeat();
        let joined = self.send_join().await?;
        self.generation = joined.generation_id;
        let name = joined.protocol_name.as_ref().map_or("", |n| n.as_str());
        let assignor = Assignor::from_name(name)
            .ok_or_else(|| ClientError::Invalid(format!("{label}: unknown assignor {name:?}")))?;
        self.assignor = Some(assignor);
        // From here on the group expects heartbeats.
        self.start_heartbeat();
        let assignments = if joined.leader.as_str() == self.member_id {
            self.divide(assignor, &joined).await?
        } else {
            Vec::new()
        };
        let connection = self.cluster.coordinator(&self.config.group).await?;
        let mut request = SyncGroupRequest::default()
            .with_group_id(text(&self.config.group).into())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
            .with_protocol_name(Some(text(name)))
            .with_assignments(assignments);
        let version = connection.version_of::<SyncGroupRequest>()?;
        if version >= 3 {
            request.group_instance_id = self.config.instance_id.as_deref().map(text);
        }
        if version < 5 {
            request.protocol_type = None;
            request.protocol_name = None;
        }
        let timeout = self.config.rebalance_timeout + Duration::from_secs(10);
        let response = connection.submit(&request, timeout).await?.wait().await?;
        ErrorCode::check(response.error_code).map_err(|code| ClientError::refused(label, code))?;
        if response.assignment.is_empty() {
            return Ok(BTreeSet::new());
        }
        let assigned = admin::read_assignment(&response.assignment)
            .ok_or_else(|| ClientError::Invalid("the group's leader sent an unreadable assignment".into()))?;
        Ok(assigned.into_iter().collect())
    }

    async fn send_join(&mut self) -> Result<JoinGroupResponse, ClientError> {
        let subscription = Subscription {
            topics: self.config.topics.clone(),
            owned: self.owned.clone(),
            generation: self.generation,
            instance_id: None,
        };
        let mut protocols = Vec::new();
        for assignor in &self.config.assignors {
            protocols.push(
                JoinGroupRequestProtocol::default()
                    .with_name(StrBytes::from_static_str(assignor.name()))
                    .with_metadata(assignor::encode_subscription(*assignor, &subscription)?),
            );
        }
        let millis = |d: Duration| i32::try_from(d.as_millis()).unwrap_or(i32::MAX);
        let mut request = JoinGroupRequest::default()
            .with_group_id(text(&self.config.group).into())
            .with_session_timeout_ms(millis(self.config.session_timeout))
            .with_rebalance_timeout_ms(millis(self.config.rebalance_timeout))
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(protocols);
        loop {
            request.member_id = text(&self.member_id);
            let connection = self.cluster.coordinator(&self.config.group).await?;
            if connection.version_of::<JoinGroupRequest>()? >= 5 {
                request.group_instance_id = self.config.instance_id.as_deref().map(text);
            }
            let timeout = self.config.rebalance_timeout + Duration::from_secs(10);
            let response = connection.submit(&request, timeout).await?.wait().await?;
            let code = ErrorCode(response.error_code);
            if code == ErrorCode::MEMBER_ID_REQUIRED && self.member_id.is_empty() {
                self.member_id = response.member_id.to_string();
                continue;
            }
            ErrorCode::check(code.0)
                .map_err(|code| ClientError::refused(format!("group {}", self.config.group), code))?;
            self.member_id = response.member_id.to_string();
            return Ok(response);
        }
    }

    /// As the leader: every member's share.
    async fn divide(
        &self,
        assignor: Assignor,
        joined: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let mut members = Subscriptions::new();
        for member in &joined.members {
            // One that can't be read gets nothing; the others must not suffer from it.
            let mut subscription = assignor::decode_subscription(&member.metadata).unwrap_or_default();
            subscription.instance_id = member.group_instance_id.as_ref().map(|i| i.to_string());
            members.insert(member.member_id.to_string(), subscription);
        }
        let wanted: BTreeSet<&String> = members.values().flat_map(|s| &s.topics).collect();
        let topics = self.cluster.topics().await?;
        let partitions: BTreeMap<String, i32> = topics
            .iter()
            .filter(|t| wanted.contains(&t.name))
            .map(|t| (t.name.clone(), t.partitions.len() as i32))
            .collect();
        let mut assignments = Vec::new();
        for (member, share) in assignor.assign(&members, &partitions) {
            assignments.push(
                SyncGroupRequestAssignment::default()
                    .with_member_id(text(&member))
                    .with_assignment(assignor::encode_assignment(&share)?),
            );
        }
        Ok(assignments)
    }

    /// Reads the new partitions from their committed offsets, and those that stayed from where the caller is.
    async fn take_over(&mut self, assigned: BTreeSet<TopicPartition>) -> Result<(), ClientError> {
        let kept: BTreeSet<TopicPartition> = self.owned.intersection(&assigned).cloned().collect();
        let new: Vec<TopicPartition> = assigned.difference(&kept).cloned().collect();
        let mut positions: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        let mut unknown = new;
        for partition in &kept {
            match self.consumed.get(partition) {
                Some(offset) => {
                    positions.insert(partition.clone(), *offset);
                }
                None => unknown.push(partition.clone()),
            }
        }
        if !unknown.is_empty() {
            for (topic, _) in &unknown {
                // Also brings the topic into the cache.
                self.cluster.topic(topic, AutoCreate::Never).await?;
            }
            let committed = admin::committed(&self.cluster, &self.config.group, Some(&unknown)).await?;
            let without: Vec<(TopicPartition, OffsetSpec)> = unknown
                .iter()
                .filter(|p| !committed.contains_key(*p))
                .map(|p| (p.clone(), self.config.start))
                .collect();
            let mut started = admin::list_offsets(&self.cluster, &without).await?;
            // No record that late: from the end.
            let late: Vec<(TopicPartition, OffsetSpec)> = started
                .iter()
                .filter(|(_, offset)| offset.is_none())
                .map(|(p, _)| (p.clone(), OffsetSpec::Latest))
                .collect();
            started.extend(admin::list_offsets(&self.cluster, &late).await?);
            for (partition, offset) in committed {
                self.committed.insert(partition.clone(), offset.offset);
                positions.insert(partition, offset.offset);
            }
            for (partition, offset) in started {
                positions.insert(partition, offset.unwrap_or(0));
            }
        }
        self.owned = assigned;
        self.consumed.retain(|partition, _| kept.contains(partition));
        self.committed.retain(|partition, _| positions.contains_key(partition));
        for (partition, offset) in &positions {
            self.consumed.entry(partition.clone()).or_insert(*offset);
        }
        self.fetcher.assign(positions);
        Ok(())
    }

    fn start_heartbeat(&mut self) {
        let (sender, receiver) = watch::channel(Standing::Member);
        let heart = Heart {
            cluster: self.cluster.clone(),
            group: self.config.group.clone(),
            member_id: self.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
            generation: self.generation,
            interval: self.config.heartbeat_interval,
        };
        self.heartbeat = Some((tokio::spawn(heart.beat(sender)), receiver));
    }

    /// Commits and leaves, so that the others need not wait for the session to end. A static member stays.
    pub async fn close(mut self) -> Result<(), ClientError> {
        let committed = self.commit_before_revoke().await;
        self.stop_heartbeat();
        if self.config.instance_id.is_none() && !self.member_id.is_empty() {
            let mut request = LeaveGroupRequest::default().with_group_id(text(&self.config.group).into());
            if self.cluster.coordinator_version::<LeaveGroupRequest>(&self.config.group).await? >= 3 {
                let leaver = MemberIdentity::default().with_member_id(text(&self.member_id));
                request.members = vec![leaver];
            } else {
                request.member_id = text(&self.member_id);
            }
            let left = self.cluster.send_coordinator(&self.config.group, &request, |r| r.error_code).await;
            if let Err(error) = left {
                tracing::debug!(%error, "not left; the session will end by itself");
            }
        }
        committed
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.stop_heartbeat();
    }
}

struct Heart {
    cluster: Cluster,
    group: String,
    member_id: String,
    instance_id: Option<String>,
    generation: i32,
    interval: Duration,
}

impl Heart {
    /// Beats until the group does not want us any more. Goes on through a rebalance: the member has until the
    /// rebalance timeout to join, and is expelled before if it falls silent.
    async fn beat(self, standing: watch::Sender<Standing>) {
        let mut next = Instant::now() + self.interval;
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + self.interval;
            match self.beat_once().await {
                Ok(ErrorCode::NONE) => {}
                Ok(ErrorCode::REBALANCE_IN_PROGRESS) => {
                    standing.send_if_modified(|s| {
                        std::mem::replace(s, Standing::Rebalance) != Standing::Rebalance
                    });
                }
                Ok(ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION) => {
                    standing.send_replace(Standing::Lost);
                    return;
                }
                Ok(ErrorCode::FENCED_INSTANCE_ID) => {
                    standing.send_replace(Standing::Fenced);
                    return;
                }
                Ok(code) => {
                    tracing::debug!(%code, "heartbeat refused");
                    self.cluster.forget_coordinator(&self.group);
                }
                Err(error) => {
                    tracing::debug!(%error, "heartbeat failed");
                    self.cluster.forget_coordinator(&self.group);
                }
            }
        }
    }

    async fn beat_once(&self) -> Result<ErrorCode, ClientError> {
        let connection = self.cluster.coordinator(&self.group).await?;
        let mut request = HeartbeatRequest::default()
            .with_group_id(text(&self.group).into())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id));
        if connection.version_of::<HeartbeatRequest>()? >= 3 {
            request.group_instance_id = self.instance_id.as_deref().map(text);
        }
        Ok(ErrorCode(connection.send(&request).await?.error_code))
    }
}
