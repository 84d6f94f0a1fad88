//! What everything in one simulation shares: where events go, and what phase it is in.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ottla_clients::cluster::{Cluster, ClusterConfig};

use crate::check::{self, Checker, Event};

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    pub checker: String,
    /// Simulated time.
    pub at: Duration,
    pub what: String,
}

pub struct World {
    checkers: RefCell<Vec<Box<dyn Checker>>>,
    violations: RefCell<Vec<Violation>>,
    /// The cluster as it was when the first promise was broken.
    notes: RefCell<Vec<String>>,
    events: Cell<u64>,
    /// Simulated time, as of the last step.
    pub now: Cell<Duration>,
    bootstrap: Vec<String>,
    /// Workloads go on as long as this is set.
    pub working: Cell<bool>,
    /// Clients that have not ended.
    pub clients: Cell<usize>,
    pub acked: Cell<u64>,
    pub read: Cell<u64>,
}

impl World {
    pub fn new(bootstrap: Vec<String>) -> Rc<World> {
        Rc::new(World {
            checkers: RefCell::new(check::all()),
            violations: RefCell::default(),
            notes: RefCell::default(),
            events: Cell::new(0),
            now: Cell::default(),
            bootstrap,
            working: Cell::new(true),
            clients: Cell::new(0),
            acked: Cell::new(0),
            read: Cell::new(0),
        })
    }

    pub fn tell(&self, event: Event) {
        self.events.set(self.events.get() + 1);
        tracing::debug!(?event, "event");
        for checker in self.checkers.borrow_mut().iter_mut() {
            if let Err(what) = checker.on(&event) {
                self.object(checker.name(), what);
            }
        }
    }

    /// The checkers' last word.
    pub fn finish(&self) {
        for checker in self.checkers.borrow_mut().iter_mut() {
            if let Err(what) = checker.finish() {
                self.object(checker.name(), what);
            }
        }
    }

    pub fn object(&self, checker: &str, what: String) {
        tracing::error!(checker, what, "violation");
        let at = self.now.get();
        self.violations.borrow_mut().push(Violation { checker: checker.to_owned(), at, what });
    }

    pub fn note(&self, line: String) {
        self.notes.borrow_mut().push(line);
    }

    pub fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().clone()
    }

    pub fn violations_count(&self) -> usize {
        self.violations.borrow().len()
    }

    pub fn events(&self) -> u64 {
        self.events.get()
    }

    /// A client's view of the cluster, as soon as any broker answers.
    pub async fn connect(&self, client_id: &str) -> Cluster {
        loop {
            let config = ClusterConfig {
                bootstrap: self.bootstrap.clone(),
                client_id: client_id.to_owned(),
                connect_timeout: Duration::from_secs(1),
                request_timeout: Duration::from_secs(3),
                operation_timeout: Duration::from_secs(8),
            };
            match Cluster::connect(config).await {
                Ok(cluster) => return cluster,
                Err(error) => {
                    tracing::debug!(client_id, %error, "cannot connect yet");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}
