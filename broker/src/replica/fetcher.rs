//! Following leaders: one task for each leader and fetcher number (`num.replica.fetchers`), whatever the number of
//! partitions.
//!
//! A round: name what moved (`fetch_plan`), fetch, append everything that came, sync all touched logs at once, and fetch
//! again, which tells the leader what is held now. Partitions that come while a fetch waits at the leader are asked for by a second
//! request, which ends that wait.
//!
//! A throttled partition that is behind is held back while the follower's quota is used up: the leader's session forgets it, and
//! the others are fetched as ever.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::{LeaderEpoch, Offset};
use ottla_clients::error::ClientError;
use ottla_raft::{BrokerEpoch, BrokerId, Metadata, TopicId};
use ottla_storage::log::EpochEnd;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bootstrap::{self, BootstrapError};
use super::fetch_plan::{FetchPlan, Key};
use super::following::{Fetched, FollowError, FollowerPosition};
use super::links::{Answer, LeaderLink, LeaderLinks};
use super::partition::Replica;
use super::quota::{Quotas, Room};
use super::waiters::AckWait;
use crate::config::{NodeConfig, ReplicaFetchConfig};
use crate::tier::Tier;

/// Requests of one fetcher on their way: one that waits at the leader, and one that ends that wait. Leaders rely on it: see
/// `follower_sessions`, `followed_since`.
const IN_FLIGHT_MAX: usize = 2;
/// Between attempts to reach a leader, doubling up to `replica.fetch.backoff.ms`.
const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
/// A partition that is held back is looked at again after this time at most: rate and list of throttled replicas can change.
const HELD_BACK_MAX: Duration = Duration::from_millis(500);

/// What all fetchers of a broker share.
pub struct FetcherContext {
    pub local: BrokerId,
    pub metadata: Metadata,
    pub broker_epoch: watch::Receiver<BrokerEpoch>,
    pub node: Arc<NodeConfig>,
    pub config: ReplicaFetchConfig,
    pub inter_broker_listener: String,
    pub links: Arc<dyn LeaderLinks>,
    pub quotas: Arc<Quotas>,
    pub tier: Option<Arc<Tier>>,
    /// Ids of the log directories, in the manager's order.
    pub directories: Vec<uuid::Uuid>,
}

enum Command {
    Follow(Arc<Replica>, LeaderEpoch),
    Leave(Key),
}

/// What the manager tells a fetcher.
#[derive(Default)]
struct Orders {
    commands: Mutex<Vec<Command>>,
    wake: Notify,
}

impl Orders {
    fn push(&self, command: Command) {
        self.commands.lock().push(command);
        self.wake.notify_one();
    }
}

/// All fetchers of this broker.
pub struct Fetchers {
    context: Arc<FetcherContext>,
    stop: watch::Sender<bool>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    fetchers: HashMap<(BrokerId, usize), Arc<Orders>>,
    /// Which fetcher has a partition.
    assigned: HashMap<Key, (BrokerId, usize)>,
}

impl Fetchers {
    pub fn new(context: FetcherContext) -> Fetchers {
        Fetchers { context: Arc::new(context), stop: watch::Sender::new(false), running: Mutex::default() }
    }

    /// Must be called within the runtime.
    pub fn follow(&self, replica: &Arc<Replica>, leader: BrokerId, epoch: LeaderEpoch, fetchers: usize) {
        let key = (replica.topic_id(), replica.partition());
        let mut running = self.running.lock();
        let number = spread(key) % fetchers.max(1);
        let fetcher = match running.assigned.get(&key) {
            // Stays where it is although the number of fetchers changed.
            Some(fetcher) if fetcher.0 == leader => *fetcher,
            _ => (leader, number),
        };
        if let Some(before) = running.assigned.insert(key, fetcher).filter(|before| *before != fetcher)
            && let Some(orders) = running.fetchers.get(&before)
        {
            orders.push(Command::Leave(key));
        }
        let orders = running.fetchers.entry(fetcher).or_insert_with(|| {
            let orders = Arc::new(Orders::default());
            let task = Fetcher {
                leader,
                context: Arc::clone(&self.context),
                orders: Arc::clone(&orders),
                plan: FetchPlan::default(),
                replicas: HashMap::new(),
                bootstraps: HashMap::new(),
            };
            tokio::spawn(task.run(self.stop.subscribe()));
            orders
        });
        orders.push(Command::Follow(Arc::clone(replica), epoch));
    }

    pub fn leave(&self, key: Key) {
        let mut running = self.running.lock();
        if let Some(fetcher) = running.assigned.remove(&key)
            && let Some(orders) = running.fetchers.get(&fetcher)
        {
            orders.push(Command::Leave(key));
        }
    }

    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Neighbouring partitions go to different fetchers.
fn spread((topic, partition): Key) -> usize {
    (topic.0.as_u128() as usize).wrapping_add(partition as usize)
}

struct Fetcher {
    leader: BrokerId,
    context: Arc<FetcherContext>,
    orders: Arc<Orders>,
    plan: FetchPlan,
    replicas: HashMap<Key, Arc<Replica>>,
    /// Logs that begin anew behind the tier, which waits for the object store.
    bootstraps: HashMap<Key, JoinHandle<()>>,
}

impl Fetcher {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let following = async {
            let mut pause = CONNECT_PAUSE_MIN;
            loop {
                self.await_work().await;
                match self.connect().await {
                    Ok(link) => {
                        pause = CONNECT_PAUSE_MIN;
                        let error = self.follow(&link).await;
                        tracing::info!(leader = %self.leader, %error, "the connection to a leader ended");
                        self.context.metadata.doubt(self.leader);
                    }
                    Err(error) => {
                        tracing::info!(leader = %self.leader, error, "a leader cannot be reached");
                        self.context.metadata.doubt(self.leader);
                        tokio::time::sleep(pause).await;
                        pause = (2 * pause).min(self.context.config.backoff);
                    }
                }
                self.plan.on_session_lost();
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = following => {}
        }
    }

    fn take_orders(&mut self) {
        for command in std::mem::take(&mut *self.orders.commands.lock()) {
            match command {
                Command::Follow(replica, epoch) => {
                    let key = (replica.topic_id(), replica.partition());
                    self.replicas.insert(key, replica);
                    self.plan.follow(key, epoch);
                }
                Command::Leave(key) => {
                    self.replicas.remove(&key);
                    self.plan.leave(key);
                }
            }
        }
    }

    /// Returns when there is something to fetch.
    async fn await_work(&mut self) {
        loop {
            self.take_orders();
            if !self.plan.is_idle() || self.plan.next_retry().is_some_and(|at| at <= Instant::now()) {
                return;
            }
            let retry: OptionFuture<_> = self.plan.next_retry().map(tokio::time::sleep_until).into();
            tokio::select! {
                () = self.orders.wake.notified() => {}
                Some(()) = retry => {}
            }
        }
    }

    async fn connect(&self) -> Result<Arc<dyn LeaderLink>, String> {
        let image = self.context.metadata.image();
        let listener = &self.context.inter_broker_listener;
        let endpoint = image.broker(self.leader).and_then(|broker| broker.endpoint(listener));
        let endpoint = endpoint.ok_or_else(|| format!("it has no listener {listener}"))?;
        let address = match endpoint.host.contains(':') {
            true => format!("[{}]:{}", endpoint.host, endpoint.port),
            false => format!("{}:{}", endpoint.host, endpoint.port),
        };
        self.context.links.connect(address).await.map_err(|error| error.to_string())
    }

    /// Follows over one connection until it ends, and says why it did.
    async fn follow(&mut self, link: &Arc<dyn LeaderLink>) -> ClientError {
        let mut in_flight: VecDeque<(u64, Answer)> = VecDeque::new();
        loop {
            // ORDER: between an answer and the next request. A leader takes that request for the word that this broker has not
            // begun to lead what it does not forget (`leadership`).
            self.take_orders();
            let may_ask = match in_flight.len() {
                0 => !self.plan.is_idle() || self.plan.next_retry().is_some_and(|at| at <= Instant::now()),
                IN_FLIGHT_MAX.. => false,
                _ => self.plan.may_overlap() && self.plan.is_urgent(),
            };
            if may_ask {
                let (number, request) = self.request(link, in_flight.is_empty()).await;
                match link.fetch(request).await {
                    Ok(answer) => in_flight.push_back((number, answer)),
                    Err(error) => return error,
                }
                continue;
            }
            let retry: OptionFuture<_> = match in_flight.len() {
                IN_FLIGHT_MAX.. => None,
                _ => self.plan.next_retry().map(tokio::time::sleep_until),
            }
            .into();
            let answer: OptionFuture<_> = in_flight.front_mut().map(|(_, answer)| answer).into();
            tokio::select! {
                biased;
                Some(answer) = answer => {
                    let Some((number, _)) = in_flight.pop_front() else { continue };
                    match answer {
                        Ok(answer) => self.take_answer(link, number, answer).await,
                        Err(error) => return error,
                    }
                }
                () = self.orders.wake.notified() => {}
                Some(()) = retry => {
                    // Named with the next request, which is made at once.
                    self.plan.wake_retries(Instant::now());
                }
            }
        }
    }

    /// `is_only`: no other request is on its way.
    async fn request(&mut self, link: &Arc<dyn LeaderLink>, is_only: bool) -> (u64, FetchRequest) {
        let to_name = self.plan.take_to_name(Instant::now());
        let (to_name, throttled_bytes_max) = self.throttle(to_name, is_only);
        let positions = self.positions(link, to_name).await;
        let named: Vec<Key> = positions.iter().map(|(key, ..)| *key).collect();
        let planned = self.plan.on_request(&named);
        let config = &self.context.config;
        let mut topics: BTreeMap<TopicId, Vec<FetchPartition>> = BTreeMap::new();
        for ((topic, partition), epoch, position) in positions {
            let key = (topic, partition);
            let dir = self.replicas.get(&key).map_or(0, |replica| replica.dir());
            let bytes_max = match throttled_bytes_max {
                Some(share) if self.is_throttled(key) => config.partition_bytes_max.min(share),
                _ => config.partition_bytes_max,
            };
            topics.entry(topic).or_default().push(
                FetchPartition::default()
                    .with_partition(partition)
                    .with_current_leader_epoch(epoch.0)
                    .with_fetch_offset(position.end.0)
                    .with_last_fetched_epoch(position.last_epoch.0)
                    .with_log_start_offset(position.log_start.0)
                    .with_partition_max_bytes(bytes_max)
                    .with_replica_directory_id(
                        self.context.directories.get(dir).copied().unwrap_or_default(),
                    ),
            );
        }
        let mut forgotten: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in planned.forgotten {
            forgotten.entry(topic).or_default().push(partition);
        }
        let state = ReplicaState::default()
            .with_replica_id(kafka_protocol::messages::BrokerId(self.context.local.0))
            .with_replica_epoch(self.context.broker_epoch.borrow().0);
        let cluster_id = self.context.metadata.image().cluster_id.to_string();
        let request = FetchRequest::default()
            .with_cluster_id(Some(StrBytes::from_string(cluster_id)))
            .with_replica_state(state)
            .with_max_wait_ms(config.wait_max_ms)
            .with_min_bytes(config.bytes_min)
            .with_max_bytes(config.response_bytes_max)
            .with_session_id(planned.session_id)
            .with_session_epoch(planned.session_epoch)
            .with_topics(
                topics
                    .into_iter()
                    .map(|(id, partitions)| {
                        FetchTopic::default().with_topic_id(id.0).with_partitions(partitions)
                    })
                    .collect(),
            )
            .with_forgotten_topics_data(
                forgotten
                    .into_iter()
                    .map(|(id, partitions)| {
                        ForgottenTopic::default().with_topic_id(id.0).with_partitions(partitions)
                    })
                    .collect(),
            );
        (planned.number, request)
    }

    /// Leaves out what the follower's quota does not allow now. Answers with the rest how much of each throttled partition may come,
    /// if any is named.
    fn throttle(
        &mut self,
        mut to_name: Vec<(Key, LeaderEpoch)>,
        is_only: bool,
    ) -> (Vec<(Key, LeaderEpoch)>, Option<i32>) {
        let quota = &self.context.quotas.follower;
        if !quota.is_limited() {
            return (to_name, None);
        }
        let now = Instant::now();
        let at = match quota.room(now) {
            Room::Unlimited => return (to_name, None),
            Room::Bytes(bytes) => {
                let named = to_name.iter().filter(|(key, _)| self.is_throttled(*key)).count();
                let share = (bytes / named.max(1)).max(1);
                return (to_name, Some(i32::try_from(share).unwrap_or(i32::MAX)));
            }
            Room::NoneUntil(at) => at.min(now + HELD_BACK_MAX),
        };
        let (held_back, go_on): (Vec<_>, Vec<_>) =
            to_name.drain(..).partition(|(key, _)| self.is_throttled(*key));
        let mut held_back: Vec<Key> = held_back.into_iter().map(|(key, _)| key).collect();
        if is_only {
            // What the leader would answer without being asked again. A request that is on its way may be answered with it already.
            let in_session = self.plan.behind_in_session();
            held_back.extend(in_session.into_iter().filter(|key| self.is_throttled(*key)));
        }
        for key in held_back {
            self.plan.hold_back(key, at);
        }
        (go_on, None)
    }

    /// As in Kafka, a follower that has all that is committed is not throttled: nobody shall wait for it in vain.
    fn is_throttled(&self, key: Key) -> bool {
        self.plan.is_behind(key)
            && self.replicas.get(&key).is_some_and(|replica| replica.is_throttled_as_follower())
    }

    /// Where the logs stand. Those that have to be synced before they may say so are, all at once.
    async fn positions(
        &mut self,
        link: &Arc<dyn LeaderLink>,
        to_name: Vec<(Key, LeaderEpoch)>,
    ) -> Vec<(Key, LeaderEpoch, FollowerPosition)> {
        let wait = AckWait::new();
        for (key, epoch) in &to_name {
            if let Some(replica) = self.replicas.get(key) {
                // Who does not follow any more is left out below.
                let _ = replica.sync_for_fetch(*epoch, &wait);
            }
        }
        wait.settled().await;
        let now = Instant::now();
        let mut positions = Vec::with_capacity(to_name.len());
        for (key, epoch) in to_name {
            let Some(replica) = self.replicas.get(&key).cloned() else { continue };
            match replica.follower_position(epoch) {
                // It was cut where the tier alone has the records.
                Ok(Some(position)) if position.lacks_its_past => {
                    self.start_behind_tier(key, link, replica, epoch, position.log_start);
                }
                Ok(Some(position)) => positions.push((key, epoch, position)),
                // The order to leave, or to follow in another epoch, is on its way; or the disk does not sync.
                Ok(None) | Err(_) => self.plan.on_failed(key, now, self.context.config.backoff),
            }
        }
        positions
    }

    async fn take_answer(&mut self, link: &Arc<dyn LeaderLink>, number: u64, answer: FetchResponse) {
        if !self.plan.is_current(number) {
            return;
        }
        if answer.error_code != 0 {
            let error = ResponseError::try_from_code(answer.error_code);
            tracing::debug!(leader = %self.leader, ?error, "the leader ended the fetch session");
            self.plan.on_session_lost();
            return;
        }
        self.plan.on_answer(answer.session_id);
        let wait = AckWait::new();
        for topic in answer.responses {
            for data in topic.partitions {
                let key = (TopicId(topic.topic_id), data.partition_index);
                let Some(epoch) = self.plan.epoch_of_answer(key, number) else { continue };
                let Some(replica) = self.replicas.get(&key).cloned() else { continue };
                if data.error_code == ResponseError::OffsetMovedToTieredStorage.code() {
                    self.start_behind_tier(key, link, replica, epoch, Offset(data.log_start_offset));
                    continue;
                }
                self.take_partition(key, &replica, epoch, data, &wait);
            }
        }
        // One wait for the syncs of all partitions, which run side by side.
        wait.settled().await;
    }

    /// The partition is left alone until its log begins where the leader has the next record.
    fn start_behind_tier(
        &mut self,
        key: Key,
        link: &Arc<dyn LeaderLink>,
        replica: Arc<Replica>,
        epoch: LeaderEpoch,
        log_start: Offset,
    ) {
        self.plan.on_position(key, true);
        self.plan.on_failed(key, Instant::now(), self.context.config.backoff);
        self.bootstraps.retain(|_, task| !task.is_finished());
        if self.bootstraps.contains_key(&key) {
            return;
        }
        let (context, link) = (Arc::clone(&self.context), Arc::clone(link));
        let task = tokio::spawn(async move {
            let started = bootstrap::start_behind_tier(&context, &*link, &replica, epoch, log_start).await;
            let (topic, partition) = (replica.topic(), replica.partition());
            match started {
                Ok(Some(at)) => tracing::info!(%topic, partition, %at, "the log begins behind the tier"),
                // It did before: an answer to an earlier fetch sent it here again.
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%topic, partition, %error, "the log cannot begin behind the tier yet");
                    if let BootstrapError::Follow(error) = &error {
                        replica.check_offline(error);
                    }
                }
            }
        });
        self.bootstraps.insert(key, task);
    }

    fn take_partition(
        &mut self,
        key: Key,
        replica: &Arc<Replica>,
        epoch: LeaderEpoch,
        data: PartitionData,
        wait: &Arc<AckWait>,
    ) {
        let bytes = data.records.as_ref().map_or(0, bytes::Bytes::len);
        let high_watermark = Offset(data.high_watermark);
        if bytes > 0 && replica.is_throttled_as_follower() {
            self.context.quotas.follower.spend(bytes, Instant::now());
        }
        let log_start = Offset(data.log_start_offset);
        let taken = match ResponseError::try_from_code(data.error_code) {
            None if data.diverging_epoch.epoch >= 0 && data.diverging_epoch.end_offset >= 0 => {
                let diverging = EpochEnd {
                    leader_epoch: LeaderEpoch(data.diverging_epoch.epoch),
                    end_offset: Offset(data.diverging_epoch.end_offset),
                };
                self.plan.on_position(key, true);
                replica.truncate_to_leader(epoch, diverging).map(|_| true)
            }
            None => {
                let fetched =
                    Fetched { records: data.records.unwrap_or_default(), high_watermark, log_start };
                let appended = replica.append_as_follower(epoch, fetched, wait);
                self.plan.on_position(key, replica.end_offset() < high_watermark);
                appended.map(|log_start_moved| bytes > 0 || log_start_moved)
            }
            Some(ResponseError::OffsetOutOfRange) if log_start >= Offset(0) => {
                self.plan.on_position(key, true);
                replica.on_out_of_range(epoch, log_start).map(|()| true)
            }
            Some(error) => {
                let (topic, partition) = (replica.topic(), replica.partition());
                tracing::debug!(leader = %self.leader, %topic, partition, ?error, "the leader refused a fetch");
                self.plan.on_failed(key, Instant::now(), self.context.config.backoff);
                return;
            }
        };
        match taken {
            // Named with the next request: there is more, or the leader has to know.
            Ok(true) => self.plan.on_moved(key),
            Ok(false) => {}
            Err(error) => {
                match &error {
                    FollowError::RoleChanged(_) => {}
                    _ => tracing::error!(
                        leader = %self.leader, topic = %replica.topic(), partition = replica.partition(), %error,
                        "what the leader sent cannot be taken"
                    ),
                }
                replica.check_offline(&error);
                self.plan.on_failed(key, Instant::now(), self.context.config.backoff);
            }
        }
    }
}
