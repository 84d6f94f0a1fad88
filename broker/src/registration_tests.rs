//! Registrations with a controller of one voter; time is paused and jumps.

use std::collections::BTreeMap;

use ottla_raft::quorum::store_memory::MemoryStore;
use ottla_raft::requests::UnregisterBroker;
use ottla_raft::{Endpoint, MetadataConfig, features};

use super::*;

const BROKER: BrokerId = BrokerId(7);

async fn controller() -> Metadata {
    let mut config = MetadataConfig::new(BrokerId(1), "");
    config.broker_session_timeout = Some(liveness().session_timeout);
    Metadata::start_in_memory(config, Arc::new(MemoryStore::new())).await.unwrap()
}

fn liveness() -> LivenessConfig {
    LivenessConfig {
        heartbeat_interval: Duration::from_millis(500),
        session_timeout: Duration::from_secs(3),
        registration_timeout: Duration::from_secs(60),
        controlled_shutdown: true,
        controlled_shutdown_max: Duration::from_secs(30),
        log_dir_failure_timeout: Duration::from_secs(10),
    }
}

fn introduction(incarnation: u128) -> RegisterBroker {
    let endpoint = Endpoint { name: "PLAINTEXT".into(), security_protocol: 0, host: "a".into(), port: 9092 };
    RegisterBroker {
        id: BROKER,
        incarnation: Uuid::from_u128(incarnation),
        endpoints: vec![endpoint],
        rack: None,
        features: features::supported(),
        log_dirs: vec![Uuid::from_u128(1), Uuid::from_u128(2)],
        previous_epoch: None,
    }
}

async fn register(metadata: &Metadata, incarnation: u128) -> Result<Arc<Registration>, RegistrationError> {
    Registration::start(metadata.clone(), liveness(), introduction(incarnation)).await
}

fn is_fenced(metadata: &Metadata) -> bool {
    metadata.image().broker(BROKER).is_none_or(|broker| broker.fenced)
}

#[tokio::test(start_paused = true)]
async fn a_broker_is_fenced_until_it_serves_and_after_it_left() {
    let metadata = controller().await;
    let registration = register(&metadata, 1).await.unwrap();
    let epoch = *registration.epoch().borrow();
    assert_eq!(metadata.image().broker(BROKER).unwrap().epoch, epoch);
    // However long its logs take to open.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(is_fenced(&metadata));
    registration.serve().await;
    assert!(!is_fenced(&metadata));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!is_fenced(&metadata), "heartbeats keep its session");
    registration.leave().await;
    assert!(metadata.image().broker(BROKER).unwrap().in_controlled_shutdown);
    assert!(is_fenced(&metadata));
    assert_eq!(*registration.epoch().borrow(), epoch, "it was one registration");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_was_unregistered_registers_again_and_serves_on() {
    let metadata = controller().await;
    let registration = register(&metadata, 1).await.unwrap();
    registration.serve().await;
    let mut epochs = registration.epoch();
    let before = *epochs.borrow_and_update();
    metadata.submit(UnregisterBroker { id: BROKER }).await.unwrap().unwrap();
    epochs.changed().await.unwrap();
    assert!(*epochs.borrow() > before);
    let mut changes = metadata.changes();
    while is_fenced(&metadata) {
        changes.changed().await.unwrap();
    }
    assert_eq!(metadata.image().broker(BROKER).unwrap().epoch, *epochs.borrow());
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_living_broker_is_not_taken() {
    let metadata = controller().await;
    let first = register(&metadata, 1).await.unwrap();
    first.serve().await;
    let refused = register(&metadata, 2).await.err().unwrap();
    assert!(matches!(refused, RegistrationError::Duplicate(BROKER)), "{refused}");
    assert!(!is_fenced(&metadata), "the first is not disturbed");
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_dead_broker_is_taken_when_its_session_is_over() {
    let metadata = controller().await;
    let first = register(&metadata, 1).await.unwrap();
    first.serve().await;
    first.heartbeats.lock().take().unwrap().abort();
    let began = Instant::now();
    let second = register(&metadata, 2).await.unwrap();
    assert!(began.elapsed() <= liveness().session_timeout + 2 * RETRY_PAUSE, "{:?}", began.elapsed());
    assert!(*second.epoch().borrow() > *first.epoch().borrow());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_was_replaced_while_it_was_away_is_told_that_it_is_lost() {
    let metadata = controller().await;
    let first = register(&metadata, 1).await.unwrap();
    first.serve().await;
    // As by SIGSTOP: no heartbeats, and then again.
    first.heartbeats.lock().take().unwrap().abort();
    let second = register(&metadata, 2).await.unwrap();
    second.serve().await;
    let back = tokio::spawn(Arc::clone(&first).keep_alive());
    let reason = first.lost().await;
    assert!(reason.contains("two nodes must not share one"), "{reason}");
    assert!(!is_fenced(&metadata));
    back.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_log_directory_is_reported_at_once() {
    let metadata = controller().await;
    let registration = register(&metadata, 1).await.unwrap();
    registration.serve().await;
    let began = Instant::now();
    registration.report_offline(failed(2, true));
    let mut changes = metadata.changes();
    while metadata.image().broker(BROKER).unwrap().log_dirs.contains(&Uuid::from_u128(2)) {
        changes.changed().await.unwrap();
    }
    assert!(began.elapsed() < liveness().heartbeat_interval);
}

fn failed(id: u128, led_partitions: bool) -> FailedDir {
    FailedDir { id: Uuid::from_u128(id), led_partitions }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_cannot_tell_of_a_failed_directory_is_lost_where_it_led_partitions() {
    let metadata = controller().await;
    let registration = register(&metadata, 1).await.unwrap();
    registration.serve().await;
    let timeout = liveness().log_dir_failure_timeout;

    // The controller hears of it, and is gone afterwards.
    registration.report_offline(failed(1, true));
    let mut changes = metadata.changes();
    while metadata.image().broker(BROKER).unwrap().log_dirs.contains(&Uuid::from_u128(1)) {
        changes.changed().await.unwrap();
    }
    let answers = registration.answer.subscribe().changed().await;
    answers.unwrap();
    metadata.shutdown().await;
    assert!(tokio::time::timeout(2 * timeout, registration.lost()).await.is_err(), "it was told");

    // Others lead what was there: nothing hangs on it.
    registration.report_offline(failed(2, false));
    assert!(tokio::time::timeout(2 * timeout, registration.lost()).await.is_err(), "nothing was led there");

    let began = Instant::now();
    registration.report_offline(failed(3, true));
    let reason = registration.lost().await;
    assert!(reason.contains("log.dir.failure.timeout.ms"), "{reason}");
    assert!((timeout..timeout + RETRY_PAUSE).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_registers_anew_names_the_directories_that_work() {
    let metadata = controller().await;
    let registration = register(&metadata, 1).await.unwrap();
    registration.serve().await;
    registration.report_offline(failed(2, false));
    let epoch = *registration.epoch().borrow();
    metadata.submit(UnregisterBroker { id: BROKER }).await.unwrap().unwrap();
    registration.epoch().wait_for(|now| *now != epoch).await.unwrap();
    assert_eq!(metadata.image().broker(BROKER).unwrap().log_dirs, [Uuid::from_u128(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_controller_does_not_take_is_said() {
    let metadata = controller().await;
    let unsupported = RegisterBroker { features: BTreeMap::new(), ..introduction(1) };
    let refused = Registration::start(metadata.clone(), liveness(), unsupported).await.err().unwrap();
    assert!(matches!(refused, RegistrationError::Refused(RegisterBrokerError::UnsupportedFeatures(_))));
    metadata.shutdown().await;
    let unheard = register(&metadata, 1).await.err().unwrap();
    assert!(unheard.to_string().contains("initial.broker.registration.timeout.ms"), "{unheard}");
}
