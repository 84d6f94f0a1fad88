"""Topics whose older records lie in the remote tier (KIP-405), a directory here: what stock clients read of them, and what
Kafka's own tools say."""

import hashlib
import random
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPythonPartition

from harness.broker import Broker
from harness.process import wait_until
from harness.tools import KafkaTools

_SEGMENT = 1 << 20
_VALUE = 10_000
# A day old: not so old that anything deletes it.
_FIRST_TIMESTAMP = (int(time.time()) - 86_400) * 1_000
TOOLS = "4.3.1"


@pytest.fixture(scope="module")
def tiered_broker(broker_kind, tmp_path_factory):
    """A broker that looks for work every fraction of a second. Kafka itself comes without a store for its tier."""
    if broker_kind != "ottla":
        pytest.skip("Kafka's own directory tier is in its test jars")
    directory = tmp_path_factory.mktemp("tiered")
    broker = Broker(broker_kind, directory, {
        "remote.log.storage.system.enable": "true",
        "ottla.tier.url": f"file://{directory}/tier",
        "remote.log.manager.task.interval.ms": "200",
        "log.retention.check.interval.ms": "200",
        "log.segment.delete.delay.ms": "100",
        "log.initial.task.delay.ms": "100",
    })
    broker.start()
    yield broker
    broker.end()


@pytest.fixture(scope="module")
def tools(tiered_broker) -> KafkaTools:
    return KafkaTools(TOOLS, tiered_broker.bootstrap)


def value_of(partition: int, number: int) -> bytes:
    """Another one for each record, that does not compress."""
    return random.Random(partition << 32 | number).randbytes(_VALUE // 2).hex().encode()


class Load:
    """Produces to both partitions, a second of record time apart, until it is told to stop."""

    def __init__(self, broker, topic: str):
        self.counts = [0, 0]
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20})
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def send(self, count: int) -> None:
        for _ in range(count):
            for partition in (0, 1):
                number = self.counts[partition]
                self._producer.produce(self._topic, value_of(partition, number), str(number).encode(), partition,
                                       timestamp=_FIRST_TIMESTAMP + number * 1_000)
                self.counts[partition] += 1
            self._producer.poll(0)
        assert self._producer.flush(60) == 0

    def _go_on(self) -> None:
        while not self._stop.wait(0.02):
            self.send(2)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def offset(tools: KafkaTools, topic: str, when: str, partition: int = 0) -> int | None:
    """What kafka-get-offsets says; None for no such offset."""
    said = tools.run("kafka-get-offsets", "--topic", topic, "--time", when, "--partitions", str(partition)).stdout
    lines = [line for line in said.splitlines() if line.startswith(f"{topic}:")]
    return int(lines[0].rsplit(":", 1)[1] or -1) if lines else None


def local_start(broker, topic: str, partition: int = 0) -> int:
    """By the files, which costs less to ask than a tool."""
    names = sorted(path.name for path in broker.partition_dir(topic, partition).glob("*.log"))
    return int(names[0].removesuffix(".log"))


def is_at_rest(broker, topic: str, partition: int = 0) -> bool:
    """Whether local retention has no segment to delete any more: it goes on for a moment after the last record came."""
    try:
        sizes = [path.stat().st_size for path in sorted(broker.partition_dir(topic, partition).glob("*.log"))]
    except FileNotFoundError:
        return False
    return sum(sizes[1:]) < 2 * _SEGMENT


@pytest.fixture(scope="module")
def topic(tiered_broker, tools) -> str:
    """Two partitions of some 12 MB, of which the last megabytes are on the disk; made with Kafka's tools."""
    name = "tiered"
    tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "2", "--config", "remote.storage.enable=true",
              "--config", f"segment.bytes={_SEGMENT}")
    tools.run("kafka-configs", "--alter", "--entity-type", "topics", "--entity-name", name, "--add-config",
              f"local.retention.bytes={2 * _SEGMENT}")
    described = tools.run("kafka-topics", "--describe", "--topic", name).stdout
    assert "remote.storage.enable=true" in described and f"local.retention.bytes={2 * _SEGMENT}" in described
    load = Load(tiered_broker, name)
    load.send(1_200)
    for partition in (0, 1):
        wait_until(lambda: local_start(tiered_broker, name, partition) > 600, 60, "older records are in the tier alone")
    return name


@pytest.fixture
def load(tiered_broker, topic):
    """More records, while the test runs."""
    load = Load(tiered_broker, topic)
    consumer = Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": "ends"})
    load.counts = [consumer.get_watermark_offsets(TopicPartition(topic, partition), 30)[1] for partition in (0, 1)]
    consumer.close()
    with load:
        yield load


def expected(partition: int, numbers: range) -> str:
    digest = hashlib.sha256()
    for number in numbers:
        digest.update(value_of(partition, number))
    return digest.hexdigest()


def test_librdkafka_reads_from_the_first_offset_while_producing_goes_on(tiered_broker, topic, load):
    consumer = Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": "librdkafka", "check.crcs": True})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in (0, 1)])
    digests, nexts = [hashlib.sha256(), hashlib.sha256()], [0, 0]
    while min(nexts) < 1_300:
        message = consumer.poll(30)
        assert message is not None and message.error() is None, message and message.error()
        partition = message.partition()
        assert message.offset() == nexts[partition]
        assert message.timestamp()[1] == _FIRST_TIMESTAMP + message.offset() * 1_000
        digests[partition].update(message.value())
        nexts[partition] += 1
    consumer.close()
    for partition in (0, 1):
        assert digests[partition].hexdigest() == expected(partition, range(nexts[partition]))


def test_kafka_python_reads_from_the_first_offset_while_producing_goes_on(tiered_broker, topic, load):
    consumer = KafkaConsumer(bootstrap_servers=tiered_broker.bootstrap, check_crcs=True)
    partition = KafkaPythonPartition(topic, 1)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    digest, following = hashlib.sha256(), 0

    def enough():
        nonlocal following
        for records in consumer.poll(1_000).values():
            for record in records:
                assert record.offset == following
                digest.update(record.value)
                following += 1
        return following >= 1_200

    wait_until(enough, 120, "all records", poll_s=0)
    consumer.close()
    assert digest.hexdigest() == expected(1, range(following))


@pytest.mark.parametrize("isolation", ["read_uncommitted", "read_committed"])
def test_the_java_consumer_reads_from_the_first_offset_while_producing_goes_on(tools, topic, load, isolation):
    said = tools.run("kafka-console-consumer", "--topic", topic, "--partition", "0", "--offset", "earliest",
                     "--max-messages", "1200", "--timeout-ms", "60000", "--isolation-level", isolation,
                     "--formatter-property", "print.offset=true", timeout_s=180)
    lines = [line for line in said.stdout.splitlines() if line.startswith("Offset:")]
    assert [int(line.split("\t")[0].removeprefix("Offset:")) for line in lines] == list(range(1_200))
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.split("\t", 1)[1].encode())
    assert digest.hexdigest() == expected(0, range(1_200))


def test_a_group_starts_at_the_beginning_and_shares_the_partitions(tiered_broker, topic):
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    members = [Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": "sharing",
                         "auto.offset.reset": "earliest"}) for _ in range(2)]
    for member in members:
        member.subscribe([topic])

    def all_seen():
        for member in members:
            for message in member.consume(500, 0.2):
                assert message.error() is None, message.error()
                seen[message.partition()].add(message.offset())
        return all(offsets >= set(range(1_200)) for offsets in seen.values())

    wait_until(all_seen, 120, "both partitions from their first records on", poll_s=0)
    for member in members:
        member.close()


def test_offsets_by_time_and_by_name(tiered_broker, tools, topic):
    wait_until(lambda: is_at_rest(tiered_broker, topic), 60, "local retention has done its work")
    start = local_start(tiered_broker, topic)
    assert offset(tools, topic, "earliest") == offset(tools, topic, "-2") == 0
    assert offset(tools, topic, "-4") == offset(tools, topic, "earliest-local") == start
    tiered = offset(tools, topic, "latest-tiered")
    assert tiered == offset(tools, topic, "-5") and tiered >= start - 1
    assert offset(tools, topic, "earliest-pending-upload") == tiered + 1
    consumer = Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": "times"})
    for number in (0, 1, 77, start - 1, start, start + 1):
        for before in (0, 1, 999):
            asked = TopicPartition(topic, 0, _FIRST_TIMESTAMP + number * 1_000 - before)
            assert consumer.offsets_for_times([asked], 30)[0].offset == number
        if number == 77:
            assert offset(tools, topic, str(_FIRST_TIMESTAMP + number * 1_000)) == number
    consumer.close()


def test_the_disk_holds_what_local_retention_leaves(tiered_broker, tools, topic):
    described = tools.run("kafka-log-dirs", "--describe", "--topic-list", topic).stdout
    assert f'"partition":"{topic}-0"' in described
    on_disk = sum(path.stat().st_size for path in tiered_broker.partition_dir(topic, 0).glob("*.log"))
    assert on_disk <= 4 * _SEGMENT
    objects = list((tiered_broker.directory / "tier").rglob("*.seg"))
    assert sum(path.stat().st_size for path in objects) > 12 * _SEGMENT


def test_deleted_records_are_gone_and_the_rest_is_read(tiered_broker, tools, tmp_path):
    name = "deleting"
    create(tools, name)
    producer = Producer({"bootstrap.servers": tiered_broker.bootstrap})
    for number in range(800):
        producer.produce(name, value_of(0, number), partition=0)
    assert producer.flush(60) == 0
    wait_until(lambda: local_start(tiered_broker, name) > 300, 60, "older records are in the tier alone")
    asked = tmp_path / "offsets.json"
    asked.write_text('{"version": 1, "partitions": [{"topic": "%s", "partition": 0, "offset": 250}]}' % name)
    assert "low_watermark: 250" in tools.run("kafka-delete-records", "--offset-json-file", str(asked)).stdout
    assert offset(tools, name, "earliest") == 250
    consumer = Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": name, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(name, 0, 100)])
    message = consumer.poll(30)
    assert (message.error(), message.offset(), message.value()) == (None, 250, value_of(0, 250))
    consumer.close()


def create(tools: KafkaTools, name: str, **config) -> None:
    config = {"remote.storage.enable": "true", "segment.bytes": str(_SEGMENT), "local.retention.bytes": str(_SEGMENT), **config}
    options = [option for key, value in config.items() for option in ("--config", f"{key}={value}")]
    tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "1", *options)


def test_a_store_that_is_gone_for_a_while_is_waited_for(tiered_broker, tools):
    """Producing and reading of what is here go on; who reads older records waits, and loses nothing."""
    name = "outage"
    create(tools, name)
    producer = Producer({"bootstrap.servers": tiered_broker.bootstrap})

    def produce(numbers: range):
        for number in numbers:
            producer.produce(name, value_of(0, number), partition=0)
        assert producer.flush(60) == 0

    produce(range(600))
    wait_until(lambda: local_start(tiered_broker, name) > 300, 60, "older records are in the tier alone")
    objects = sorted((tiered_broker.directory / "tier").rglob("*.seg"))
    hidden: list[tuple[Path, Path]] = []
    try:
        for path in objects:
            path.rename(path.with_suffix(".hidden"))
            hidden.append((path.with_suffix(".hidden"), path))
        consumer = Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": name, "auto.offset.reset": "error"})
        consumer.assign([TopicPartition(name, 0, 0)])
        assert consumer.poll(3) is None, "neither a record nor an error"
        produce(range(600, 620))
        last = Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": f"{name}-last"})
        last.assign([TopicPartition(name, 0, 619)])
        assert last.poll(30).offset() == 619
        last.close()
    finally:
        for away, path in hidden:
            away.rename(path)
    for number in range(620):
        message = consumer.poll(30)
        assert message is not None and message.error() is None
        assert (message.offset(), message.value()) == (number, value_of(0, number))
    consumer.close()


def test_a_restart_keeps_what_is_in_the_tier(broker_kind, tiered_broker, tools):
    name = "restarted"
    create(tools, name)
    producer = Producer({"bootstrap.servers": tiered_broker.bootstrap})
    for number in range(500):
        producer.produce(name, value_of(0, number), partition=0)
    assert producer.flush(60) == 0
    wait_until(lambda: local_start(tiered_broker, name) > 250, 60, "older records are in the tier alone")
    for end in (tiered_broker.kill, tiered_broker.stop):
        end()
        tiered_broker.start()
        assert offset(tools, name, "earliest") == 0
        consumer = Consumer({"bootstrap.servers": tiered_broker.bootstrap, "group.id": name})
        consumer.assign([TopicPartition(name, 0, 0)])
        for number in range(500):
            message = consumer.poll(30)
            assert message is not None and (message.error(), message.value()) == (None, value_of(0, number))
        consumer.close()


@pytest.mark.parametrize(("config", "reason"), [
    ({"local.retention.bytes": "20", "retention.bytes": "10"}, "local.retention.bytes"),
    ({"local.retention.ms": "20000", "retention.ms": "10000"}, "local.retention.ms"),
])
def test_retentions_that_cannot_be(tools, name, config, reason):
    options = [option for key, value in config.items() for option in ("--config", f"{key}={value}")]
    refused = tools.run("kafka-topics", "--create", "--topic", name, "--config", "remote.storage.enable=true", *options, check=False)
    assert refused.code == 1
    assert "InvalidConfigurationException" in refused.stdout + refused.stderr and reason in refused.stdout + refused.stderr


def test_a_topic_does_not_leave_the_tier_by_mistake(tools, name):
    create(tools, name)
    alter = ("kafka-configs", "--alter", "--entity-type", "topics", "--entity-name", name, "--add-config")
    refused = tools.run(*alter, "remote.storage.enable=false", check=False)
    assert refused.code == 1 and "remote.log.delete.on.disable" in refused.stdout + refused.stderr
    tools.run(*alter, "remote.storage.enable=false,remote.log.delete.on.disable=true")


def test_without_a_tier_topics_are_refused_it(broker, name):
    tools = KafkaTools(TOOLS, broker.bootstrap)
    refused = tools.run("kafka-topics", "--create", "--topic", name, "--config", "remote.storage.enable=true", check=False)
    assert refused.code == 1
    assert "InvalidConfigurationException" in refused.stdout + refused.stderr
    tools.run("kafka-topics", "--create", "--topic", name)
    assert offset(tools, name, "-4") == 0
    assert offset(tools, name, "-5") in (None, -1)
