//! What a node is in its cluster: roles, the quorum, liveness; and what Kafka demands between roles and listeners.

use super::*;

/// Shorter, and an ordinary sync of the disk would look like a dead controller.
const ELECTION_TIMEOUT_MS_MIN: i64 = 200;

/// `host:port`, as other nodes are given it.
fn parse_address(text: &str) -> Option<String> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let host = host.trim();
    let port: u16 = port.trim().parse().ok().filter(|port| *port > 0)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_bracketed = bare.len() + 2 == host.len();
    (!bare.is_empty() && bare.contains(':') == is_bracketed).then(|| format!("{host}:{port}"))
}

impl Loader {
    pub(super) fn roles(&mut self) -> Roles {
        const KEY: &str = "process.roles";
        let names = self.list(KEY);
        let has = |role: &str| names.iter().any(|name| name == role);
        let roles = Roles { broker: has("broker"), controller: has("controller") };
        if names.is_empty() {
            self.refuse(KEY, "broker, controller, or both");
        } else if names.len() != usize::from(roles.broker) + usize::from(roles.controller) {
            self.refuse(KEY, "each role once");
        }
        roles
    }

    pub(super) fn quorum(&mut self) -> QuorumConfig {
        const ELECTION: &str = "controller.quorum.election.timeout.ms";
        if self.integer(ELECTION) < ELECTION_TIMEOUT_MS_MIN {
            self.refuse(ELECTION, format!("an integer of at least {ELECTION_TIMEOUT_MS_MIN}"));
        }
        QuorumConfig {
            voters: self.voters(),
            bootstrap_servers: self.bootstrap_servers(),
            auto_join: self.flag("controller.quorum.auto.join.enable"),
            election_timeout: self.duration(ELECTION),
        }
    }

    fn voters(&mut self) -> Vec<(BrokerId, String)> {
        const KEY: &str = "controller.quorum.voters";
        let mut voters: Vec<(BrokerId, String)> = Vec::new();
        for item in self.list(KEY) {
            let parsed = item.split_once('@').and_then(|(id, address)| {
                let id = id.trim().parse::<i32>().ok().filter(|id| *id >= 0)?;
                Some((BrokerId(id), parse_address(address)?))
            });
            match parsed {
                None => self.refuse(KEY, format!("a list of id@host:port, not `{item}`")),
                Some((id, _)) if voters.iter().any(|(other, _)| *other == id) => {
                    self.refuse(KEY, format!("each voter once, {id} occurs twice"));
                }
                Some((_, address)) if voters.iter().any(|(_, other)| *other == address) => {
                    self.refuse(KEY, format!("an address for each voter, {address} occurs twice"));
                }
                Some(voter) => voters.push(voter),
            }
        }
        voters
    }

    fn bootstrap_servers(&mut self) -> Vec<String> {
        const KEY: &str = "controller.quorum.bootstrap.servers";
        let mut servers = Vec::new();
        for item in self.list(KEY) {
            match parse_address(&item) {
                None => self.refuse(KEY, format!("a list of host:port, not `{item}`")),
                Some(address) if servers.contains(&address) => {}
                Some(address) => servers.push(address),
            }
        }
        servers
    }

    pub(super) fn liveness(&mut self) -> LivenessConfig {
        const HEARTBEAT: &str = "broker.heartbeat.interval.ms";
        const SESSION: &str = "broker.session.timeout.ms";
        let (interval, session) = (self.integer(HEARTBEAT), self.integer(SESSION));
        if interval < 1 {
            self.refuse(HEARTBEAT, "an integer of at least 1");
        }
        // One heartbeat that is lost or late must not fence a broker.
        if session < 2 * interval.max(1) {
            self.refuse(SESSION, format!("at least twice broker.heartbeat.interval.ms ({interval})"));
        }
        LivenessConfig {
            heartbeat_interval: self.duration(HEARTBEAT),
            session_timeout: self.duration(SESSION),
            registration_timeout: self.duration("initial.broker.registration.timeout.ms"),
            controlled_shutdown: self.flag("controlled.shutdown.enable"),
            controlled_shutdown_max: self.duration("ottla.controlled.shutdown.max.ms"),
            log_dir_failure_timeout: self.duration("log.dir.failure.timeout.ms"),
        }
    }

    /// Where other controllers and brokers reach this node's controller: the first of `controller.listener.names`.
    pub(super) fn controller_endpoint(
        &mut self,
        listeners: &[Listener],
        controllers: &[String],
    ) -> Option<Endpoint> {
        let listener = controllers.iter().find_map(|name| listeners.iter().find(|l| l.name == *name))?;
        let protocols = BTreeMap::from([(listener.name.clone(), listener.protocol)]);
        let advertised = self
            .list("advertised.listeners")
            .iter()
            .filter(|item| endpoint_name(item).as_ref() == Some(&listener.name))
            .find_map(|item| parse_endpoint(item, &protocols).ok());
        Some(match advertised {
            Some(endpoint) => Endpoint { host: host_or_own_name(&endpoint.host), ..endpoint },
            None => Endpoint {
                listener: listener.name.clone(),
                protocol: listener.protocol,
                // COMPAT: as Kafka, all interfaces are advertised as the machine's own name.
                host: match is_meta_address(&listener.host) {
                    true => host_or_own_name(""),
                    false => host_or_own_name(&listener.host),
                },
                port: listener.port,
            },
        })
    }

    /// The rules between roles, listeners and voters, as Kafka has them. One is softer: a node that is all of its cluster
    /// needs neither voters nor a listener for controllers.
    pub(super) fn check_roles(
        &mut self,
        node_id: i32,
        roles: Roles,
        listeners: &[Listener],
        controllers: &[String],
        quorum: &QuorumConfig,
    ) {
        const ROLES: &str = "process.roles";
        const VOTERS: &str = "controller.quorum.voters";
        const NAMES: &str = "controller.listener.names";
        const LISTENERS: &str = "listeners";
        let is_voter = quorum.voters.iter().any(|(id, _)| id.0 == node_id);
        let is_alone = roles.broker && quorum.is_alone(BrokerId(node_id));
        let is_listened = |name: &String| listeners.iter().any(|listener| listener.name == *name);
        if controllers.is_empty() && !(roles.broker && roles.controller && is_alone) {
            self.refuse(NAMES, "at least one name: the listeners by which controllers are reached");
        }
        if roles.controller {
            if !quorum.voters.is_empty() && !is_voter {
                self.refuse(
                    VOTERS,
                    format!("the node id {node_id} among the voters, for {ROLES} contains controller"),
                );
            }
            if !is_alone && !controllers.is_empty() && !controllers.iter().all(is_listened) {
                self.refuse(
                    NAMES,
                    format!("only names that appear in {LISTENERS}, for {ROLES} contains controller"),
                );
            }
        } else if roles.broker {
            if quorum.voters.is_empty() && quorum.bootstrap_servers.is_empty() {
                self.refuse(
                    ROLES,
                    format!(
                        "controller too, or where the controllers are: {VOTERS} or controller.quorum.bootstrap.servers"
                    ),
                );
            }
            if is_voter {
                self.refuse(VOTERS, format!("voters without node id {node_id}, for {ROLES} is just broker"));
            }
            if controllers.iter().any(is_listened) {
                self.refuse(LISTENERS, format!("no listener of {NAMES}, for {ROLES} is just broker"));
            }
        }
        let serves_clients = listeners.iter().any(|listener| !controllers.contains(&listener.name));
        if roles.broker && !serves_clients {
            self.refuse(
                LISTENERS,
                format!("at least one listener for clients, as in PLAINTEXT://127.0.0.1:9092; are all of them in {NAMES}?"),
            );
        }
        if !roles.broker && roles.controller && serves_clients {
            self.refuse(LISTENERS, format!("only listeners of {NAMES}, for {ROLES} is just controller"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_address;

    #[test]
    fn addresses_of_nodes() {
        assert_eq!(parse_address(" a:9093 ").as_deref(), Some("a:9093"));
        assert_eq!(parse_address("[::1]:9093").as_deref(), Some("[::1]:9093"));
        for text in ["a", "a:", ":9093", "a:0", "a:70000", "::1:9093", "[a]:1", ""] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }
}
