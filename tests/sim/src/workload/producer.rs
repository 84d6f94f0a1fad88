//! A producer: writes numbered records to all partitions of its topics.

use std::rc::Rc;
use std::time::Duration;

use ottla_clients::cluster::AutoCreate;
use ottla_clients::producer::{self, Producer, ProducerConfig, ProducerRecord};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::WorkTopic;
use crate::check::{Acks, Event};
use crate::payload;
use crate::world::World;

#[derive(Debug, Clone)]
pub struct Producing {
    pub number: u32,
    pub topics: Vec<WorkTopic>,
    pub acks: Acks,
    pub idempotent: bool,
    /// Between two bursts.
    pub pause: Duration,
    pub burst_max: u32,
    pub in_flight_max: usize,
    pub seed: u64,
}

pub async fn run(world: Rc<World>, spec: Producing) {
    let mut random = StdRng::seed_from_u64(spec.seed);
    let cluster = world.connect(&format!("producer-{}", spec.number)).await;
    let config = ProducerConfig {
        acks: match spec.acks {
            Acks::None => producer::Acks::None,
            Acks::Leader => producer::Acks::Leader,
            Acks::All => producer::Acks::All,
        },
        idempotent: spec.idempotent,
        linger: Duration::from_millis(random.random_range(0..20)),
        in_flight_max: spec.in_flight_max,
        delivery_timeout: Duration::from_secs(20),
        create: AutoCreate::Never,
        ..ProducerConfig::default()
    };
    let producer = Producer::new(cluster, config);
    let mut number = 0;
    while world.working.get() {
        for _ in 0..random.random_range(1..=spec.burst_max) {
            let topic = &spec.topics[random.random_range(0..spec.topics.len())];
            let partition = random.random_range(0..topic.partitions);
            let id = payload::id(spec.number, number, spec.idempotent);
            number += 1;
            let record = ProducerRecord {
                partition: Some(partition),
                value: Some(payload::encode(id)),
                ..ProducerRecord::default()
            };
            match producer.send(&topic.name, record).await {
                Ok(delivery) => {
                    let world = world.clone();
                    let (producer, acks, name) = (spec.number, spec.acks, topic.name.clone());
                    tokio::task::spawn_local(async move {
                        match delivery.wait().await {
                            Ok(delivered) => {
                                world.acked.set(world.acked.get() + 1);
                                if let Some(offset) = delivered.offset {
                                    let partition = (name, delivered.partition);
                                    world.tell(Event::Acked { producer, partition, offset, id, acks });
                                }
                            }
                            Err(error) => tracing::debug!(producer, %error, "record given up"),
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(producer = spec.number, %error, "not sent");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        tokio::time::sleep(spec.pause.mul_f64(random.random_range(0.2..1.8))).await;
    }
    // What is still under way is acknowledged or given up now.
    producer.close().await;
    tokio::task::yield_now().await;
}
