"""Consumer groups outlive the node that coordinates them."""

import json
import struct
import threading
import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from harness.process import wait_until
from load import produce, quiet

PARTITIONS = 6
GROUP = "group"
# What a consumer of librdkafka says while a coordinator or a leader is on its way; it goes on by itself.
PASSING = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT,
           KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
           KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART,
           KafkaError.LEADER_NOT_AVAILABLE, KafkaError._WAIT_COORD, KafkaError.ILLEGAL_GENERATION,
           KafkaError.REBALANCE_IN_PROGRESS, KafkaError.UNKNOWN_MEMBER_ID, KafkaError._ASSIGNMENT_LOST, KafkaError._NO_OFFSET}


class Member:
    """A consumer on a thread, which commits after each batch what it has handed out, and remembers both."""

    def __init__(self, cluster, topic: str):
        self.seen: set[tuple[int, int]] = set()
        self.committed: dict[int, int] = {}
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._consumer = Consumer({
            "bootstrap.servers": cluster.bootstrap, "group.id": GROUP, "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "session.timeout.ms": 10_000, "heartbeat.interval.ms": 1_000}, logger=quiet)
        self._consumer.subscribe([topic])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                messages = self._consumer.consume(100, 0.2)
                positions: dict[int, int] = {}
                for message in messages:
                    if message.error() is not None:
                        self._failed(message.error())
                        continue
                    struct.unpack(">q", message.value()[:8])
                    self.seen.add((message.partition(), message.offset()))
                    positions[message.partition()] = message.offset() + 1
                if positions:
                    wanted = [TopicPartition(messages[0].topic(), *position) for position in positions.items()]
                    for done in self._consumer.commit(offsets=wanted, asynchronous=False):
                        if done.error is None:
                            self.committed[done.partition] = max(done.offset, self.committed.get(done.partition, 0))
            except KafkaException as error:
                self._failed(error.args[0])
        self._consumer.close()

    def _failed(self, error: KafkaError) -> None:
        if not error.retriable() and error.code() not in PASSING:
            self.errors.append(f"{error.name()}: {error.str()}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


def committed(cluster) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": GROUP}, logger=quiet)
    try:
        found = wait_until(lambda: answered(consumer), 30, "the committed offsets are told")
        return {one.partition: one.offset for one in found}
    finally:
        consumer.close()


def answered(consumer) -> list | None:
    try:
        found = consumer.committed([TopicPartition("t", partition) for partition in range(PARTITIONS)], timeout=10)
    except KafkaException:
        return None
    return None if any(one.error for one in found) else found


def coordinator(cluster) -> int:
    """The leader of the partition of __consumer_offsets that the group's name falls on."""
    value = 0
    for byte in GROUP.encode():
        value = (31 * value + byte) & 0xFFFFFFFF
    partitions = wait_until(lambda: cluster.brokers()[0].metadata("__consumer_offsets").topics.get("__consumer_offsets"), 30,
                            "there is a topic of offsets")
    return cluster.leader("__consumer_offsets", (value & 0x7FFFFFFF) % len(partitions))


@pytest.mark.short
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_group_outlives_its_coordinator(cluster, start_load, how):
    """Its members go on, read every record, and no committed offset goes back."""
    cluster.create_topic("t", partitions=PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    members = [Member(cluster, "t") for _ in range(2)]
    wait_until(lambda: all(member.committed for member in members), 60, "both members commit")
    for _ in range(2):
        victim = coordinator(cluster)
        told = {partition: max(member.committed.get(partition, 0) for member in members) for partition in range(PARTITIONS)}
        getattr(cluster.nodes[victim], how)()
        before = [sum(member.committed.values()) for member in members]
        wait_until(lambda: all(sum(member.committed.values()) > count for member, count in zip(members, before)), 60,
                   f"both members commit again\n{cluster.logs()}")
        now = committed(cluster)
        assert all(now[partition] >= told[partition] for partition in told), f"{now} after {told} was acknowledged"
        cluster.restart(victim)
        cluster.wait_in_sync("t", "__consumer_offsets")
    records = load.stop()
    assert not records.errors
    places = set(records.places.values())
    wait_until(lambda: places <= members[0].seen | members[1].seen, 60, "every record is seen by a member")
    for member in members:
        member.stop()
        assert not member.errors, member.errors[:5]
    cluster.check_replicas_equal("__consumer_offsets")


class JavaMember:
    """kafka-verifiable-consumer: a JSON line for each record and each commit."""

    def __init__(self, cluster):
        self._process = cluster.tools("4.3.1").start(
            "kafka-verifiable-consumer", "--topic", "t", "--group-id", GROUP, "--reset-policy", "earliest", "--verbose",
            "--session-timeout", "10000")

    def _events(self, name: str) -> list[dict]:
        lines = [line for line in list(self._process.lines) if f'"name":"{name}"' in line]
        return [json.loads(line) for line in lines]

    @property
    def seen(self) -> set[tuple[int, int]]:
        return {(event["partition"], event["offset"]) for event in self._events("record_data")}

    @property
    def committed(self) -> dict[int, int]:
        told = [one for event in self._events("offsets_committed") if event["success"] for one in event["offsets"]]
        return {partition: max(one["offset"] for one in told if one["partition"] == partition)
                for partition in {one["partition"] for one in told}}

    def stop(self) -> None:
        assert self._process.running(), self._process.output()
        self._process.end()


def test_a_java_group_outlives_its_coordinator(cluster, start_load):
    cluster.create_topic("t", partitions=PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, rate=100)
    members = [JavaMember(cluster) for _ in range(2)]
    try:
        wait_until(lambda: all(member.committed for member in members), 60, "both members commit", poll_s=0.5)
        victim = coordinator(cluster)
        told = {partition: max(member.committed.get(partition, 0) for member in members) for partition in range(PARTITIONS)}
        cluster.nodes[victim].kill()
        before = [sum(member.committed.values()) for member in members]
        wait_until(lambda: all(sum(member.committed.values()) > count for member, count in zip(members, before)), 60,
                   f"both members commit again\n{cluster.logs()}", poll_s=0.5)
        now = committed(cluster)
        assert all(now[partition] >= told[partition] for partition in told), f"{now} after {told} was acknowledged"
        cluster.restart(victim)
        records = load.stop()
        assert not records.errors
        places = set(records.places.values())
        wait_until(lambda: places <= members[0].seen | members[1].seen, 60, "every record is seen by a member", poll_s=0.5)
    finally:
        for member in members:
            member.stop()


def test_offsets_survive_the_death_of_all(cluster):
    cluster.create_topic("t", partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        produce(cluster.bootstrap, "t", 10, partition=partition)
    member = Member(cluster, "t")
    wait_until(lambda: sum(member.committed.values()) == 10 * PARTITIONS, 60, "all is read and committed")
    member.stop()
    for node in cluster.nodes.values():
        node.kill()
    for node in cluster.nodes.values():
        node.spawn()
    cluster.wait_ready(cluster.nodes.values())
    assert committed(cluster) == {partition: 10 for partition in range(PARTITIONS)}


def test_a_new_group_while_a_node_is_away(cluster):
    """__consumer_offsets with three replicas and a node less: groups work with what is in sync."""
    cluster.create_topic("t", partitions=PARTITIONS)
    produce(cluster.bootstrap, "t", 10)
    first = Member(cluster, "t")
    wait_until(lambda: sum(first.committed.values()) == 10, 60, "the group works")
    first.stop()
    cluster.nodes[3].kill()
    begin = time.monotonic()
    member = Member(cluster, "t")
    produce(cluster.bootstrap, "t", 10, first=10)
    wait_until(lambda: sum(member.committed.values()) > 10, 60, "the group works with two nodes")
    member.stop()
    assert time.monotonic() - begin < 60 and not member.errors
