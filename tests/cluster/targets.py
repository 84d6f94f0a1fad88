"""Measures what a cluster of three promises about time and size, and prints it as Markdown (docs/cluster-targets.md).

    make cluster-targets                                 all, about half an hour on two cores
    make cluster-targets TARGETS_ARGS="failover --kills 5"
    python tests/cluster/targets.py failover partitions --broker kafka

Nodes run with their default configuration but for replication (three replicas, two in sync); each in its own network
namespace where there can be one. Clients keep their defaults unless a row says otherwise. The binary is target/release/ottla,
or $OTTLA_BINARY.

failover: how long after a fault the slowest partition that the victim led (or, for the controller, any partition) is
acknowledged again, and how long a new topic takes. Every record is checked at the end.
partitions: 100, 1,000 and 10,000 partitions with three replicas: created, led, restarted and failed over.
"""

import argparse
import ctypes
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "stock"))
sys.path.insert(0, str(REPOSITORY / "tests" / "cluster"))
# The debug build is what tests use; here it would be measured instead.
os.environ.setdefault("OTTLA_BINARY", str(REPOSITORY / "target" / "release" / "ottla"))

from cluster import SHIPPED, Cluster, seconds_since  # noqa: E402
from confluent_kafka.admin import AdminClient, NewTopic  # noqa: E402
from harness.process import wait_until  # noqa: E402
from load import JavaLoad, LibrdkafkaLoad, produce, quiet  # noqa: E402

PARTITIONS = 6
NODES = (1, 2, 3)


class Table:
    """Rows of Markdown, printed as they are known: a run that is cut short still says what it found."""

    def __init__(self, *columns: str):
        print("| " + " | ".join(columns) + " |")
        print("| --- |" + " ---: |" * (len(columns) - 1), flush=True)

    def row(self, *cells: object) -> None:
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def new_cluster(kind: str, directory: Path) -> Cluster:
    """Three nodes as they are shipped."""
    return Cluster(kind, directory, base=SHIPPED).start()


# -- failover


# librdkafka's reconnect.backoff.max.ms.
CLIENT_BACKOFF_MAX_S = 10


class Clients:
    """Producers of both clients on topics of their own, idempotent, acks=all."""

    def __init__(self, cluster: Cluster, rate: float = 1_000):
        self.cluster = cluster
        self.loads = []
        for topic, make in (("librdkafka", LibrdkafkaLoad), ("java", JavaLoad)):
            cluster.create_topic(topic, partitions=PARTITIONS)
            self.loads.append(make(cluster.bootstrap, topic, PARTITIONS, rate=rate))
        self.settle()

    def settle(self) -> None:
        """All in sync, all acknowledged: the next fault finds a whole cluster."""
        self.cluster.wait_in_sync("librdkafka", "java")
        for load in self.loads:
            load.wait_for_all_partitions(PARTITIONS)

    def rest(self) -> None:
        """Makes the next fault independent of the last one. A client that found a broker gone doubles its pause before it connects
        to that broker again, up to ten seconds with librdkafka, and forgets that only when it has not tried for as long."""
        time.sleep(CLIENT_BACKOFF_MAX_S + 1)
        self.settle()

    def led_by(self, node: int) -> dict[str, set[int]]:
        found = self.cluster.brokers()[0].metadata("librdkafka", "java").topics
        return {topic: {number for number, partition in found[topic].items() if partition.leader == node} for topic in found}

    def make_lead(self, node: int) -> None:
        """Leadership goes where it is meant to be, so that the victim leads something."""
        if not all(self.led_by(node).values()):
            prefer_leaders(self.cluster)
            wait_until(lambda: all(self.led_by(node).values()), 30, f"node {node} leads partitions of both topics")
            self.settle()

    def pauses(self, since: float, partitions: dict[str, set[int]]) -> dict[str, float]:
        """By client, the longest pause of any of these partitions until all was well again."""
        self.settle()
        return {load.topic: load.longest_pause(since, partitions[load.topic]) for load in self.loads}

    def finish(self) -> str:
        checked, errors = 0, 0
        for load in self.loads:
            errors += len(load.stop().errors)
        self.cluster.wait_in_sync("librdkafka", "java")
        for load in self.loads:
            checked += load.check(self.cluster.bootstrap)
            self.cluster.check_replicas_equal(load.topic)
        return f"{checked:,} acknowledged records all there, once and in order; {errors} errors reported by clients"

    def abandon(self) -> None:
        for load in self.loads:
            load.abandon()


ALL = {"librdkafka": set(range(PARTITIONS)), "java": set(range(PARTITIONS))}


def prefer_leaders(cluster: Cluster) -> None:
    # It answers with an error for the partitions that have their preferred leader already.
    cluster.tools().run("kafka-leader-election", "--election-type", "preferred", "--all-topic-partitions", check=False)


def show_pauses(table: Table, what: str, rounds: list[dict[str, float]], limit: str) -> None:
    for client in rounds[0]:
        found = [one[client] for one in rounds]
        table.row(what, client, len(found), seconds(statistics.median(found)), seconds(max(found)), limit)


def measure_failover(kind: str, directory: Path, kills: int) -> None:
    cluster = new_cluster(kind, directory / "failover")
    clients = None
    try:
        clients = Clients(cluster)
        print("\n## Failover\n")
        table = Table("fault", "client", "times", "median", "worst", "target")
        rounds = []
        for number in range(kills):
            victim = NODES[number % 3]
            clients.make_lead(victim)
            clients.rest()
            led = clients.led_by(victim)
            moment = time.monotonic()
            cluster.nodes[victim].kill()
            wait_for_others(clients, moment, led)
            cluster.restart(victim)
            rounds.append(clients.pauses(moment, led))
        show_pauses(table, "kill -9 of a leader", rounds, "1 s median, 2 s worst")

        rounds, decided = [], []
        for _ in range(max(3, kills // 4)):
            clients.rest()
            victim = cluster.active_controller()
            moment = time.monotonic()
            cluster.nodes[victim].kill()
            decided.append(time_of_next_topic(cluster, moment))
            wait_for_others(clients, moment, ALL)
            cluster.restart(victim)
            rounds.append(clients.pauses(moment, ALL))
        show_pauses(table, "kill -9 of the active controller: every partition", rounds, "2 s")
        table.row("kill -9 of the active controller: next new topic", "librdkafka", len(decided), seconds(statistics.median(decided)),
                  seconds(max(decided)), "2 s")

        rounds = []
        for _ in range(3):
            for node in NODES:
                clients.rest()
                moment = time.monotonic()
                cluster.nodes[node].stop()
                cluster.restart(node)
                rounds.append(clients.pauses(moment, ALL))
        show_pauses(table, "rolling restart, three times round: longest pause", rounds, "no error")
        print(f"\n{clients.finish()}.\n", flush=True)
        measure_stops(cluster, kills)
    finally:
        if clients:
            clients.abandon()
        cluster.end()


def wait_for_others(clients: Clients, moment: float, partitions: dict[str, set[int]]) -> None:
    """Until what the victim led is acknowledged again. What it had sent before it died has arrived after a tenth of a second."""
    for load in clients.loads:
        wait_until(lambda: partitions[load.topic] <= {number for at, number in load.told.times if at > moment + 0.1}, 120,
                   f"{load.topic} goes on after the fault", poll_s=0.2)


def time_of_next_topic(cluster: Cluster, moment: float) -> float:
    name = f"topic-{time.monotonic_ns()}"

    def created() -> bool:
        bootstrap = ",".join(node.bootstrap for node in cluster.brokers())
        admin = AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 1_000, "log_level": 0}, logger=quiet)
        error = admin.create_topics([NewTopic(name, 1, 2)], operation_timeout=1, request_timeout=1)[name].exception(10)
        return error is None or error.args[0].name() == "TOPIC_ALREADY_EXISTS"
    wait_until(created, 60, "a topic can be created", poll_s=0.02)
    return seconds_since(moment)


def measure_stops(cluster: Cluster, times: int) -> None:
    """SIGSTOP closes no connection. A client with a request under way waits for its own request timeout (30 s); so measured
    are a client that asks anew all the time, as one that was just started does, and one whose request timeout is a second."""
    print("SIGSTOP of a leader:\n")
    table = Table("fault", "client", "times", "median", "worst", "target")
    cluster.create_topic("stopped", assignment=[[1, 2, 3], [2, 3, 1], [3, 1, 2]])
    impatient = LibrdkafkaLoad(cluster.bootstrap, "stopped", 3, rate=300, **{
        "request.timeout.ms": 1_000, "socket.timeout.ms": 1_000, "message.timeout.ms": 60_000})
    fresh, hanging = [], []
    try:
        impatient.wait_for_all_partitions(3)
        for number in range(max(3, times // 4)):
            victim = NODES[number % 3]
            if cluster.partition("stopped", victim - 1).leader != victim:
                prefer_leaders(cluster)
                cluster.wait_for_leader("stopped", lambda leader: leader == victim, victim - 1)
            impatient.wait_for_all_partitions(3)
            moment = time.monotonic()
            cluster.nodes[victim].pause()
            others = ",".join(node.bootstrap for node in cluster.brokers())
            wait_until(lambda: cluster.partition("stopped", victim - 1).leader != victim, 60, "another leader", poll_s=0.01)
            # A number far from those of the load, so that a check of it does not take one for the other.
            produce(others, "stopped", 1, first=1 << 40, partition=victim - 1)
            fresh.append(seconds_since(moment))
            wait_until(lambda: any(at > moment + 0.1 and number == victim - 1 for at, number in impatient.told.times), 120,
                       "the load goes on after the fault")
            hanging.append(impatient.longest_pause(moment, {victim - 1}))
            cluster.nodes[victim].resume()
            cluster.wait_ready(cluster.nodes.values())
            cluster.wait_in_sync("stopped")
        told = impatient.stop()
        table.row("SIGSTOP of a leader", "a client that comes then", len(fresh), seconds(statistics.median(fresh)),
                  seconds(max(fresh)), "4 s")
        table.row("SIGSTOP of a leader", "librdkafka, request timeout 1 s", len(hanging), seconds(statistics.median(hanging)),
                  seconds(max(hanging)), "4 s")
        print(f"\n{len(told.places):,} records acknowledged, {len(told.errors)} errors reported by the client.\n", flush=True)
    finally:
        impatient.abandon()


# -- many partitions

# In one request: 100 topics of 100 partitions would be more records than Kafka, and so Ottla, takes at a time.
TOPICS_PER_REQUEST = 20


def measure_partitions(kind: str, directory: Path, counts: list[int]) -> None:
    print("\n## Many partitions\n")
    print("Three replicas each, in one topic for each hundred. Memory is the largest node's, resident; CPU is of one core.\n")
    table = Table("partitions", "created", "all led and in sync", "memory", "idle CPU of a node", "stopped, one by one", "all started again",
                  "memory then", "a node killed: all led again", "it is back: all in sync", "active controller killed: all led again", "memory then")
    for count in counts:
        cluster = new_cluster(kind, directory / f"partitions-{count}")
        try:
            table.row(f"{count:,}", *partitions_of(cluster, count))
        finally:
            cluster.end()
            shutil.rmtree(cluster.directory, ignore_errors=True)


def partitions_of(cluster: Cluster, count: int) -> list[str]:
    admin = cluster.admin()
    begin = time.monotonic()
    topics = [NewTopic(f"t{number}", 100, 3) for number in range(count // 100)]
    for first in range(0, len(topics), TOPICS_PER_REQUEST):
        asked = admin.create_topics(topics[first:first + TOPICS_PER_REQUEST], operation_timeout=300, request_timeout=300)
        for future in asked.values():
            future.result(300)
    created = seconds_since(begin)
    await_led(cluster, count)
    led = seconds_since(begin)
    memory, idle = largest_memory(cluster), idle_cpu(cluster)

    begin = time.monotonic()
    for node in cluster.nodes.values():
        node.stop(300)
    stopped = seconds_since(begin)
    begin = time.monotonic()
    for node in cluster.nodes.values():
        node.spawn()
    cluster.wait_ready(cluster.nodes.values(), 600)
    await_led(cluster, count)
    restarted, restarted_memory = seconds_since(begin), largest_memory(cluster)

    # The nodes that stopped first lead nothing now; a third each is what a failover is measured with.
    prefer_leaders(cluster)
    wait_until(lambda: min(led_by(cluster, node, count) for node in cluster.nodes) >= count // 4, 120, "leaders are where they are meant to be")
    controller = cluster.active_controller()
    victim = next(node for node in cluster.nodes if node != controller)
    failed_over = time_to_fail_over(cluster, victim, count)
    begin = time.monotonic()
    cluster.nodes[victim].spawn()
    cluster.wait_ready([cluster.nodes[victim]], 600)
    await_led(cluster, count)
    back = seconds_since(begin)
    prefer_leaders(cluster)
    controller = cluster.active_controller()
    wait_until(lambda: led_by(cluster, controller, count) >= count // 4, 120, "the controller leads its share")
    controller_failed_over = time_to_fail_over(cluster, controller, count)
    return [seconds(created), seconds(led), f"{memory:.0f} MB", f"{idle:.1f} %", seconds(stopped), seconds(restarted),
            f"{restarted_memory:.0f} MB", seconds(failed_over), seconds(back), seconds(controller_failed_over),
            f"{largest_memory(cluster):.0f} MB"]


def await_led(cluster: Cluster, count: int) -> None:
    wait_until(lambda: all(all_led(node, count, 3) for node in cluster.nodes.values()), 600, "all is led and in sync", poll_s=0.05)


def time_to_fail_over(cluster: Cluster, victim: int, count: int) -> float:
    """From a kill until every other node says that everything is led by somebody else."""
    begin = time.monotonic()
    cluster.nodes[victim].kill()
    wait_until(lambda: all(all_led(node, count, 1, not_by=victim) for node in cluster.brokers()), 600, "all is led again", poll_s=0.02)
    return seconds_since(begin)


def largest_memory(cluster: Cluster) -> float:
    return max(node.memory_mb() for node in cluster.brokers())


def led_by(cluster: Cluster, node: int, count: int) -> int:
    found = partitions_known(cluster.brokers()[0])
    return sum(partition.leader == node for partition in found) if len(found) == count else 0


def partitions_known(node) -> list:
    """Of the topics that were made here, as a node sees them."""
    try:
        return [partition for topic, partitions in node.metadata().topics.items() if topic.startswith("t")
                for partition in partitions.values()]
    except OSError:
        return []


def all_led(node, count: int, in_sync: int, not_by: int | None = None) -> bool:
    found = partitions_known(node)
    return len(found) == count and all(
        partition.leader >= 0 and partition.leader != not_by and len(partition.isr) >= in_sync for partition in found)


def idle_cpu(cluster: Cluster, over_s: float = 5) -> float:
    """Percent of one core that a node takes while nothing is asked of it."""
    def spent() -> float:
        total = 0
        for node in cluster.nodes.values():
            fields = Path(f"/proc/{node.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK") / len(cluster.nodes)
    before = spent()
    time.sleep(over_s)
    return (spent() - before) / over_s * 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["failover", "partitions"], help="failover, partitions; both by default")
    parser.add_argument("--broker", choices=["ottla", "kafka"], default="ottla")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--partitions", type=lambda text: [int(count) for count in text.split(",")], default=[100, 1_000, 10_000])
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - {"failover", "partitions"}:
        parser.error(f"no such part: {', '.join(unknown)}")
    directory = Path(tempfile.mkdtemp(prefix="ottla-targets-", dir=os.environ.get("OTTLA_TARGETS_DIR")))
    try:
        if "failover" in arguments.parts:
            measure_failover(arguments.broker, directory, arguments.kills)
        if "partitions" in arguments.parts:
            measure_partitions(arguments.broker, directory, arguments.partitions)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG: ends with the make that started it
    main()
