//! The open connections, counted against `max.connections` and its relatives.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::DynamicConfig;

/// Connections on listeners by which nodes reach each other: peers, and who has not said yet what it is. They do not count against
/// `max.connections`: clients must not be able to cut a node off from its cluster.
const PEER_LISTENER_CONNECTIONS_MAX: usize = 4096;

pub struct Census {
    counts: Mutex<Counts>,
    /// What the process may open besides what it needs itself, whatever `max.connections` says.
    clients_max: usize,
}

impl Census {
    pub fn new(clients_max: usize) -> Arc<Census> {
        Arc::new(Census { counts: Mutex::default(), clients_max })
    }
}

#[derive(Default)]
struct Counts {
    clients: usize,
    by_address: HashMap<IpAddr, usize>,
    on_peer_listeners: usize,
}

/// A place in the census, given back when the connection ends.
pub struct Seat {
    census: Arc<Census>,
    /// `None`: not a client's.
    address: Option<IpAddr>,
}

impl Seat {
    /// For a connection on a listener of nodes. Err says which limit is reached.
    pub fn take_for_peer(census: &Arc<Census>) -> Result<Seat, String> {
        let mut counts = census.counts.lock();
        if counts.on_peer_listeners >= PEER_LISTENER_CONNECTIONS_MAX {
            return Err(format!("{PEER_LISTENER_CONNECTIONS_MAX} connections are open"));
        }
        counts.on_peer_listeners += 1;
        Ok(Seat { census: Arc::clone(census), address: None })
    }

    /// For a client. Err says which limit is reached.
    pub fn take_for_client(
        census: &Arc<Census>,
        limits: &DynamicConfig,
        address: IpAddr,
    ) -> Result<Seat, String> {
        let mut counts = census.counts.lock();
        if counts.clients >= census.clients_max {
            let open = census.clients_max;
            return Err(format!("{open} connections are open, and no more files may be opened (ulimit -n)"));
        }
        if counts.clients >= limits.connections_max {
            return Err(format!("max.connections ({}) is reached", limits.connections_max));
        }
        let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
        let limit = limits.connections_per_ip_overrides.get(&address).copied();
        let limit = limit.unwrap_or(limits.connections_per_ip_max);
        if of_address >= limit {
            return Err(format!("max.connections.per.ip ({limit}) is reached for {address}"));
        }
        counts.clients += 1;
        counts.by_address.insert(address, of_address + 1);
        Ok(Seat { census: Arc::clone(census), address: Some(address) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.census.counts.lock();
        let Some(address) = self.address else {
            counts.on_peer_listeners -= 1;
            return;
        };
        counts.clients -= 1;
        if let Some(of_address) = counts.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}
