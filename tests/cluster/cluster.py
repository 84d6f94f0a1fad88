"""Several nodes as one cluster: Ottla, or Apache Kafka 3.9 to prove that a test is right.

Every wait is for a condition that a node itself states, asked of that node directly. The harness knows which processes should
be running; `check_alive` fails when another one ended.
"""

import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic
from harness import environment, wire
from harness.broker import Server
from harness.process import wait_until
from harness.tools import KafkaTools
from load import quiet
from network import CLIENTS, LocalPorts, Namespaces

# What config/cluster/server.properties says of replication.
SHIPPED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}
# Tests start many clusters: few partitions for groups, and nobody waits for more members.
TESTED = {
    **SHIPPED,
    "offsets.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    # Ottla's defaults, for Kafka too: its own session of 9 s would only make the tests wait.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


class Node(Server):
    """A node; `id` is its node.id. Its config may be changed while it does not run."""

    def __init__(self, cluster: "Cluster", node: int, roles: str, config: dict[str, str]):
        self.id = node
        self.roles = roles.split(",")
        self.address = cluster.network.address(node)
        self._network = cluster.network
        self.paused = False
        self.should_run = False
        network = cluster.network
        network.add(node)
        self.port = network.port(node, "PLAINTEXT")
        self.controller_port = network.port(node, "CONTROLLER")
        self.metrics_address = f"{self.address}:{network.port(node, 'METRICS')}"
        self.bootstrap = f"{self.address}:{self.port}"
        self.controller_address = f"{self.address}:{self.controller_port}"
        self.is_broker = "broker" in self.roles
        self.is_controller = "controller" in self.roles
        listeners = [f"PLAINTEXT://{self.bootstrap}"] if self.is_broker else []
        listeners += [f"CONTROLLER://{self.controller_address}"] if self.is_controller else []
        directory = cluster.directory / f"node-{node}"
        super().__init__(cluster.kind, directory, {
            "process.roles": roles,
            "node.id": str(node),
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(listeners),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(directory / "data"),
            **({"ottla.metrics.listener": self.metrics_address} if cluster.kind == "ottla" else {}),
            **cluster.config,
            **config,
        })
        if self.is_broker:
            self.config.setdefault("advertised.listeners", f"PLAINTEXT://{self.bootstrap}")

    def spawn(self) -> None:
        super().spawn()
        self.paused = False
        self.should_run = True

    def stop(self, timeout_s: float = 60) -> int:
        self.should_run = False
        return super().stop(timeout_s)

    def kill(self) -> None:
        self.should_run = False
        super().kill()
        self.paused = False

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self.paused = True
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)
        self.paused = False

    def end(self) -> None:
        # How it stops is for tests to look at; the end of a test need not wait for it.
        if self.process is not None:
            self.kill()
        super().end()

    def running(self) -> bool:
        return self.process is not None and self.process.running()

    def answers(self) -> bool:
        return self.running() and not self.paused

    def metadata(self, *topics: str) -> wire.Metadata:
        """What this node says of these topics, or of all."""
        return wire.metadata(self.address, self.port, list(topics) or None)

    def quorum(self) -> wire.Quorum:
        return wire.describe_quorum(self.address, self.controller_port if self.is_controller else self.port)

    def log_dirs(self) -> dict[str, wire.LogDir]:
        return wire.describe_log_dirs(self.address, self.port)

    def said(self) -> str:
        """All that it wrote since its last start."""
        return "\n".join([*self.process.lines, *self.process.error_lines])

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024

    def _command(self, properties: Path) -> list[str]:
        return self._network.command(self.id, super()._command(properties))

    def _format_options(self) -> list[str]:
        if "controller.quorum.bootstrap.servers" not in self.config:
            return []
        alone = self.config["controller.quorum.bootstrap.servers"] == self.controller_address
        return ["--standalone" if alone else "--no-initial-controllers"] if self.is_controller else ["--no-initial-controllers"]

    def _ready(self) -> bool:
        """A broker that clients can use, or a controller that answers."""
        try:
            return self.id in self.metadata().brokers if self.is_broker else self.quorum() is not None
        except OSError:
            return False


class Cluster:
    """Nodes 1 to n, or those that `add` makes. `config` is every node's, and wins over `base`."""

    def __init__(self, kind: str, directory: Path, config: dict[str, str] | None = None, base: dict[str, str] = TESTED,
                 network: LocalPorts | Namespaces | None = None):
        self.kind = kind
        self.directory = directory
        self.config = {**base, **(config or {})}
        self.network = network or (LocalPorts() if Namespaces.missing() else Namespaces())
        self.nodes: dict[int, Node] = {}

    def add(self, node: int, roles: str = "broker,controller", config: dict[str, str] | None = None) -> Node:
        self.nodes[node] = Node(self, node, roles, config or {})
        return self.nodes[node]

    def start(self, count: int = 3, timeout_s: float = 60) -> "Cluster":
        """Makes `count` nodes, broker and controller each, unless some were added before; starts all."""
        if not self.nodes:
            for node in range(1, count + 1):
                self.add(node)
        self.set_voters(one for one in self.nodes.values() if one.is_controller)
        for node in self.nodes.values():
            node.spawn()
        self.wait_ready(self.nodes.values(), timeout_s)
        return self

    def set_voters(self, voters: Iterable[Node]) -> None:
        """controller.quorum.voters of all nodes, unless they are told where to look for the quorum."""
        text = ",".join(f"{voter.id}@{voter.controller_address}" for voter in voters)
        for node in self.nodes.values():
            if "controller.quorum.bootstrap.servers" not in node.config:
                node.config["controller.quorum.voters"] = text

    def wait_ready(self, nodes: Iterable[Node], timeout_s: float = 60) -> None:
        """Until each of them is ready, and every answering broker knows all of them."""
        nodes = list(nodes)
        for node in nodes:
            wait_until(node._ready_or_ended, timeout_s, f"node {node.id} is ready\n{self.logs()}")
            assert node.running(), f"node {node.id} ended instead of starting\n{self.logs()}"
        expected = {node.id for node in nodes if node.is_broker}
        for node in self.brokers():
            wait_until(lambda: expected <= set(node.metadata().brokers), timeout_s, f"node {node.id} knows {expected}\n{self.logs()}")

    def restart(self, node: int) -> None:
        """Starts one that was stopped or killed."""
        self.nodes[node].spawn()
        self.wait_ready([self.nodes[node]])

    def end(self) -> None:
        for node in self.nodes.values():
            node.end()
        self.network.close()

    def check_alive(self) -> None:
        for node in self.nodes.values():
            assert node.running() or not node.should_run, f"node {node.id} ended by itself\n{self.logs()}"
            # Of both kinds: a thread that died need not take its process along.
            if node.process is not None:
                assert "panicked at" not in node.log(), f"node {node.id} panicked\n{node.log()}"

    def logs(self) -> str:
        return "\n".join(f"===== node {node.id}\n{node.log()[-15_000:]}" for node in self.nodes.values() if node.process)

    # -- what the nodes say

    def brokers(self) -> list[Node]:
        """Those that answer."""
        return [node for node in self.nodes.values() if node.is_broker and node.answers()]

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes.values() if node.is_broker)

    def partition(self, topic: str, partition: int = 0, of: Node | None = None) -> wire.Partition | None:
        """As one node sees it, or the first that answers; None while it does not know it."""
        for node in [of] if of else self.brokers():
            try:
                return node.metadata(topic).topics.get(topic, {}).get(partition)
            except OSError:
                continue
        return None

    def leader(self, topic: str, partition: int = 0) -> int:
        def known() -> int | None:
            found = self.partition(topic, partition)
            return found.leader if found and found.leader >= 0 else None
        return wait_until(known, 30, f"{topic}-{partition} has a leader")

    def wait_for_leader(self, topic: str, accept: Callable[[int], bool], partition: int = 0, timeout_s: float = 30) -> int:
        """Until every broker that answers names the same leader that `accept` takes."""
        def agreed() -> int | None:
            try:
                seen = {node.metadata(topic).topics[topic][partition].leader for node in self.brokers()}
            except (OSError, KeyError):
                return None
            return next(iter(seen)) if len(seen) == 1 and min(seen) >= 0 and accept(min(seen)) else None
        return wait_until(agreed, timeout_s, f"{topic}-{partition} has such a leader everywhere")

    def wait_for_isr(self, topic: str, expected: set[int], timeout_s: float = 60) -> None:
        """Until the in-sync set of every partition is this one."""
        seen = {}

        def reached() -> bool:
            nonlocal seen
            try:
                seen = {number: partition.isr for number, partition in self.brokers()[0].metadata(topic).topics[topic].items()}
            except (OSError, KeyError):
                return False
            return bool(seen) and all(set(isr) == expected for isr in seen.values())
        try:
            wait_until(reached, timeout_s, f"the in-sync set of {topic} is {expected}")
        except TimeoutError as error:
            raise AssertionError(f"{error}, but {seen}\n{self.logs()}") from None

    def wait_in_sync(self, *topics: str, timeout_s: float = 60) -> None:
        """Until all replicas of all partitions are in sync."""
        lagging = {}

        def reached() -> bool:
            nonlocal lagging
            try:
                found = self.brokers()[0].metadata(*topics).topics
            except OSError:
                return False
            lagging = {(topic, number): (partition.isr, partition.replicas) for topic, partitions in found.items()
                       for number, partition in partitions.items() if set(partition.isr) != set(partition.replicas)}
            return all(found.get(topic) for topic in topics) and not lagging
        try:
            wait_until(reached, timeout_s, "all replicas are in sync")
        except TimeoutError as error:
            raise AssertionError(f"{error}; {len(lagging)} are not: {dict(list(lagging.items())[:10])}\n{self.logs()}") from None

    def wait_fenced(self, node: int, timeout_s: float = 30) -> None:
        """Until no broker that answers lists this one."""
        def gone() -> bool:
            try:
                return all(node not in one.metadata().brokers for one in self.brokers() if one.id != node)
            except OSError:
                return False
        wait_until(gone, timeout_s, f"node {node} is fenced")

    def active_controller(self, timeout_s: float = 30, other_than: int | None = None) -> int:
        """The controller that says of itself that it leads the quorum."""
        def found() -> int | None:
            for node in self.nodes.values():
                if node.is_controller and node.answers():
                    try:
                        quorum = node.quorum()
                    except OSError:
                        continue
                    if quorum.error == 0 and quorum.leader == node.id != other_than:
                        return node.id
            return None
        return wait_until(found, timeout_s, "there is an active controller")

    # -- changes

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap}, logger=quiet)

    def tools(self, version: str = environment.KAFKA_BROKER_VERSION) -> KafkaTools:
        return KafkaTools(version, self.bootstrap)

    def create_topic(self, topic: str, partitions: int = 1, replication: int = 3, assignment: list[list[int]] | None = None,
                     **config: object) -> str:
        """Config keys with _ for dots."""
        config = {key.replace("_", "."): str(value) for key, value in config.items()}
        wanted = (NewTopic(topic, len(assignment), replica_assignment=assignment, config=config) if assignment
                  else NewTopic(topic, partitions, replication, config=config))
        admin = self.admin()
        admin.create_topics([wanted])[topic].result(30)
        self.wait_in_sync(topic)
        count = len(assignment) if assignment else partitions
        for node in self.brokers():
            wait_until(lambda: len(node.metadata(topic).topics.get(topic, {})) == count, 30, f"node {node.id} knows {topic}")
        return topic

    def isolate(self, node: int, *, clients: bool = False) -> None:
        """From all other nodes, both ways."""
        for other in self.nodes:
            if other != node:
                self.network.cut(node, other)
                self.network.cut(other, node)
        if clients:
            self.network.cut(CLIENTS, node)

    # -- what lies on the disks

    def check_replicas_equal(self, topic: str) -> int:
        """Compares the batches of the replicas on nodes that run, byte by byte; how many there were in all. Call it when
        nothing is being written and all are in sync."""
        compared = 0
        for number, partition in self.brokers()[0].metadata(topic).topics[topic].items():
            def contents() -> list[dict[int, bytes]]:
                return [batches(self.nodes[replica].partition_dir(topic, number)) for replica in partition.replicas
                        if self.nodes[replica].running()]

            def equal() -> bool:
                found = contents()
                return all(one == found[0] for one in found)
            try:
                wait_until(equal, 20, "the replicas are equal", poll_s=0.5)
            except TimeoutError:
                found = contents()
                ends = {replica: (len(one), max(one, default=-1)) for replica, one in zip(partition.replicas, found)}
                differing = [base for base in sorted(set().union(*found)) if len({one.get(base) for one in found}) > 1]
                raise AssertionError(f"{topic}-{number}: replicas differ from base offset {differing[0]} on; "
                                     f"batches and last base offset: {ends}\n{self.logs()}") from None
            compared += len(contents()[0])
        return compared


def batches(directory: Path) -> dict[int, bytes]:
    """Base offset to the bytes of each batch on disk."""
    found = {}
    for segment in sorted(directory.glob("*.log")):
        data, at = segment.read_bytes(), 0
        while at + 61 <= len(data):
            end = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
            # Space that is reserved and not yet written reads as zeros.
            if end > len(data) or end == at + 12:
                break
            found[int.from_bytes(data[at : at + 8], "big")] = data[at:end]
            at = end
    return found


def seconds_since(begin: float) -> float:
    return time.monotonic() - begin
