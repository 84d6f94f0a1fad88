//! The nodes of a simulated cluster: their disks, their lives and deaths. What runs on them is the production code.
//!
//! A node is a host of the simulated network. Its disk and metadata store outlive its processes. `main` of a process is
//! `Machine::run`: it starts the node, starts it again when it does not come up (as a service manager would), and ends when
//! it is told to stop or stops itself. A process dies when the host's runtime is dropped, after its disk was cut off: no
//! destructor can make a crash look clean.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use ottla_broker::clock;
use ottla_broker::config::NodeConfig;
use ottla_broker::node::{self, Broker, Environment};
use ottla_raft::quorum::store_memory::MemoryStore;
use ottla_storage::disk::{Disk, SimulatedDisk};
use tokio::sync::Notify;

/// A process that does not come up is started again after this.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub broker: bool,
    pub controller: bool,
}

/// Who is in the cluster, and what all of its nodes are configured with.
#[derive(Debug, Clone)]
pub struct Layout {
    pub nodes: Vec<(i32, Roles)>,
    /// Beyond what makes the nodes a cluster.
    pub overrides: Vec<(String, String)>,
}

impl Layout {
    pub fn voters(&self) -> String {
        let controllers = self.nodes.iter().filter(|(_, roles)| roles.controller);
        controllers.map(|(id, _)| format!("{id}@{}:9093", host_name(*id))).collect::<Vec<_>>().join(",")
    }

    pub fn brokers(&self) -> impl Iterator<Item = i32> {
        self.nodes.iter().filter(|(_, roles)| roles.broker).map(|(id, _)| *id)
    }

    pub fn bootstrap(&self) -> Vec<String> {
        self.brokers().map(|id| format!("{}:9092", host_name(id))).collect()
    }
}

pub fn host_name(id: i32) -> String {
    format!("node-{id}")
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The machine loses power: what was not synced is lost, kept or torn.
    PowerCut,
    /// The process alone: what it wrote is there.
    Kill,
}

/// One node's machine.
pub struct Machine {
    pub id: i32,
    pub disk: SimulatedDisk,
    /// A service that all machines reach and that outlives them.
    tier: SimulatedDisk,
    overrides: Vec<(String, String)>,
    store: RefCell<Arc<MemoryStore>>,
    /// By how many milliseconds its clock is wrong.
    pub clock_error_ms: Arc<AtomicI64>,
    /// The node while it serves.
    serving: RefCell<Option<Arc<Broker>>>,
    stop: RefCell<Rc<Notify>>,
    /// Whether the process runs, as far as this machine knows.
    up: Cell<bool>,
    /// Set by the process when it must not go on.
    stopped_itself: Arc<AtomicBool>,
    /// Peers that it is cut off from when it must not go on.
    peers: Vec<String>,
}

impl Machine {
    pub fn new(id: i32, roles: Roles, layout: &Layout, peers: Vec<String>, tier: &SimulatedDisk) -> Machine {
        let host = host_name(id);
        let mut listeners = Vec::new();
        let mut role_names = Vec::new();
        if roles.broker {
            listeners.push("PLAINTEXT://:9092");
            role_names.push("broker");
        }
        if roles.controller {
            listeners.push("CONTROLLER://:9093");
            role_names.push("controller");
        }
        let mut overrides = vec![
            ("node.id", id.to_string()),
            ("process.roles", role_names.join(",")),
            ("listeners", listeners.join(",")),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("controller.quorum.voters", layout.voters()),
            ("log.dirs", format!("/{host}/data")),
            ("ottla.metrics.listener", String::new()),
        ];
        let mut advertised = Vec::new();
        if roles.broker {
            advertised.push(format!("PLAINTEXT://{host}:9092"));
        }
        if roles.controller {
            advertised.push(format!("CONTROLLER://{host}:9093"));
        }
        overrides.push(("advertised.listeners", advertised.join(",")));
        let mut overrides: Vec<_> =
            overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        overrides.extend(layout.overrides.iter().cloned());
        Machine {
            id,
            disk: SimulatedDisk::new(),
            tier: tier.clone(),
            overrides,
            store: RefCell::new(Arc::new(MemoryStore::new())),
            clock_error_ms: Arc::default(),
            serving: RefCell::new(None),
            stop: RefCell::default(),
            up: Cell::new(false),
            stopped_itself: Arc::default(),
            peers,
        }
    }

    pub fn host(&self) -> String {
        host_name(self.id)
    }

    pub fn is_up(&self) -> bool {
        self.up.get()
    }

    pub fn stopped_itself(&self) -> bool {
        self.stopped_itself.load(Ordering::SeqCst)
    }

    /// The node, while it serves.
    pub fn broker(&self) -> Option<Arc<Broker>> {
        self.serving.borrow().clone()
    }

    pub fn store(&self) -> Arc<MemoryStore> {
        self.store.borrow().clone()
    }

    pub fn set_sync_time(&self, min: Duration, max: Duration, seed: u64) {
        self.disk.set_sync_time(min, max, seed);
        self.store().set_sync_time(min, max, seed ^ 1);
    }

    /// Cuts the process off from its disk, as its death does. The host's runtime is to be dropped right after.
    pub fn die(&self, death: Death, seed: u64) {
        self.up.set(false);
        *self.serving.borrow_mut() = None;
        let store = match death {
            Death::PowerCut => {
                self.disk.crash(seed);
                self.store.borrow().crash_and_reopen(seed)
            }
            Death::Kill => {
                self.disk.kill();
                self.store.borrow().kill_and_reopen()
            }
        };
        *self.store.borrow_mut() = Arc::new(store);
    }

    /// SIGTERM.
    pub fn tell_to_stop(&self) {
        self.stop.borrow().notify_one();
    }

    /// The process.
    pub async fn run(self: Rc<Machine>) -> turmoil::Result {
        clock::set_error_of_this_host(self.clock_error_ms.clone());
        self.up.set(true);
        self.stopped_itself.store(false, Ordering::SeqCst);
        let stop = Rc::new(Notify::new());
        *self.stop.borrow_mut() = stop.clone();
        let node = loop {
            let config = NodeConfig::load(None, &self.overrides)?;
            let starting = node::start_with(config, self.environment());
            let outcome = tokio::select! {
                biased;
                () = stop.notified() => {
                    self.up.set(false);
                    return Ok(());
                }
                outcome = starting => outcome,
            };
            match outcome {
                Ok(node) => break node,
                Err(error) => {
                    tracing::warn!(node = self.id, %error, "did not start");
                    // A process that ends lets go of its locks.
                    self.die(Death::Kill, 0);
                    self.up.set(true);
                    tokio::time::sleep(RESTART_PAUSE).await;
                }
            }
        };
        tracing::info!(node = self.id, "serves");
        *self.serving.borrow_mut() = Some(node.broker().clone());
        let broker = node.broker().clone();
        tokio::select! {
            biased;
            () = stop.notified() => {}
            reason = broker.metadata.stopped() => {
                tracing::error!(node = self.id, reason, "the metadata failed");
                self.stopped_itself.store(true, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        }
        tracing::info!(node = self.id, "told to stop");
        *self.serving.borrow_mut() = None;
        drop(broker);
        node.shutdown().await;
        tracing::info!(node = self.id, "stopped");
        self.up.set(false);
        Ok(())
    }

    fn environment(&self) -> Environment {
        let stopped_itself = self.stopped_itself.clone();
        let (host, peers) = (self.host(), self.peers.clone());
        let (disk, store) = (self.disk.clone(), self.store());
        Environment {
            disk: Disk::simulated(&self.disk),
            tier_disk: Some(Disk::simulated(&self.tier)),
            metadata_store: Some(self.store()),
            client_connections_max: usize::MAX,
            on_fatal: Arc::new(move |fatal| {
                tracing::error!(%host, %fatal, "stops itself");
                // A real process has ended at this point: nothing of it may reach anybody or any disk.
                for peer in &peers {
                    turmoil::partition(host.as_str(), peer.as_str());
                }
                disk.kill();
                drop(store.kill_and_reopen());
                stopped_itself.store(true, Ordering::SeqCst);
            }),
        }
    }
}
