"""Consumers that read from followers (KIP-392)."""

import re
import threading
import urllib.request

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from harness.process import wait_until
from load import produce, quiet
from membership import TOOLS

SELECTOR = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
RECORDS = 2_000
PASSING = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT}


class Librdkafka:
    """Reads a partition in a rack, on a thread, until it is stopped."""

    def __init__(self, cluster, topic: str, rack: str):
        self.values: list[bytes] = []
        self.errors: list[str] = []
        self._ending = threading.Event()
        self._consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "none", "enable.auto.commit": False,
                                   "client.rack": rack, "check.crcs": True}, logger=quiet)
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            for message in self._consumer.consume(500, 0.2):
                if message.error() is None:
                    self.values.append(message.value())
                elif message.error().code() not in PASSING:
                    self.errors.append(str(message.error()))

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self._consumer.close()
        assert not self.errors, self.errors[:3]


class Java:
    """Kafka's console consumer."""

    def __init__(self, cluster, topic: str, rack: str):
        self._process = cluster.tools(TOOLS).start("kafka-console-consumer", "--topic", topic, "--partition", "0", "--offset", "earliest",
                                                   "--consumer-property", f"client.rack={rack}")

    @property
    def values(self) -> list[bytes]:
        return [line.encode() for line in self._process.lines if line.startswith("value ")]

    def stop(self) -> None:
        assert self._process.running(), self._process.output()
        self._process.kill()


def fetched_bytes(node) -> int:
    """Bytes of records that a node sent to clients."""
    with urllib.request.urlopen(f"http://{node.metrics_address}/metrics", timeout=10) as answer:
        return int(re.search(r"^\w*fetched_bytes_total (\d+)", answer.read().decode(), re.MULTILINE)[1])


@pytest.mark.short
@pytest.mark.parametrize("client", [Librdkafka, Java])
def test_a_consumer_reads_from_the_replica_in_its_rack(make_cluster, kind, client):
    cluster = make_cluster({"replica.selector.class": SELECTOR})
    for node in (1, 2, 3):
        cluster.add(node, config={"broker.rack": f"rack-{node}"})
    cluster.start()
    cluster.create_topic("t", assignment=[[1, 2, 3]], min_insync_replicas=1)
    expected: list[bytes] = []

    def produce_more() -> None:
        for _ in range(RECORDS):
            expected.append(b"value %d " % len(expected) + b"x" * 100)
        for first in range(len(expected) - RECORDS, len(expected), 100):
            produce(cluster.bootstrap, "t", 100, values=expected[first:first + 100])
    produce_more()
    cluster.wait_in_sync("t")
    reader = client(cluster, "t", "rack-2")
    try:
        wait_until(lambda: len(reader.values) >= len(expected), 60, "everything is read")
        # What comes while it waits at the follower comes too.
        produce_more()
        wait_until(lambda: len(reader.values) >= len(expected), 60, "what came later is read")
        assert reader.values == expected
        if kind == "ottla":
            fetched = {node: fetched_bytes(cluster.nodes[node]) for node in (1, 2, 3)}
            assert fetched[2] > sum(map(len, expected)) and fetched[1] == fetched[3] == 0, fetched
        cluster.nodes[2].kill()
        produce_more()
        wait_until(lambda: len(reader.values) >= len(expected), 60, "what came after the death of the follower is read")
        assert reader.values == expected
        # The follower is back, and so is its reader after a while; here with a new one.
        cluster.restart(2)
        cluster.wait_in_sync("t")
        again = Librdkafka(cluster, "t", "rack-2")
        wait_until(lambda: len(again.values) >= len(expected), 60, "everything is read once more")
        assert again.values == expected
        again.stop()
        if kind == "ottla":
            assert fetched_bytes(cluster.nodes[2]) > sum(map(len, expected))
    finally:
        reader.stop()
