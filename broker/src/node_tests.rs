//! Nodes that start and stop in this process.

use std::io::{Read, Write};

use super::*;

fn config(dir: &std::path::Path) -> NodeConfig {
    let overrides = [
        ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
        ("log.dirs", dir.join("data").display().to_string()),
        ("ottla.metrics.listener", String::new()),
    ];
    let overrides: Vec<_> = overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    NodeConfig::load(None, &overrides).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_shut_down_can_be_started_again_in_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut held = Vec::new();
    for round in 0..3 {
        let node = start(config(dir.path())).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let broker = Arc::clone(node.broker());
        let id = BrokerId(broker.config.node_id);
        let image = broker.metadata.image();
        let registered = image.broker(id).unwrap();
        assert!(registered.is_active(), "round {round}");
        assert_eq!(registered.features, features::supported());

        // A client in the middle of a request.
        let mut client = std::net::TcpStream::connect(broker.addresses["PLAINTEXT"]).unwrap();
        client.write_all(&[0, 0, 0, 50, 0, 3]).unwrap();
        let began = Instant::now();
        node.shutdown().await;
        assert!(began.elapsed() < Duration::from_secs(3), "a half request holds nobody up");
        assert!(!broker.metadata.image().broker(id).unwrap().is_active(), "the controller was told");
        // Whoever still has a handle does not keep the directory.
        held.push((broker, client));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_both_directions_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(config(dir.path())).await.unwrap();
    let mut client = std::net::TcpStream::connect(node.broker().addresses["PLAINTEXT"]).unwrap();
    // ApiVersions v0, correlation id 1, no client id.
    let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    client.write_all(&request).unwrap();
    let mut length = [0; 4];
    client.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    client.read_exact(&mut answer).unwrap();
    let metrics = &node.broker().metrics;
    assert_eq!(metrics.bytes_in.get(), request.len() as u64);
    // Counted after the write, which the client may see first.
    let began = Instant::now();
    while metrics.bytes_out.get() != (length.len() + answer.len()) as u64 {
        assert!(began.elapsed() < Duration::from_secs(5), "{} bytes counted", metrics.bytes_out.get());
        tokio::task::yield_now().await;
    }
    node.shutdown().await;
}
