"""Retention by size and time, and compaction, as a consumer sees them."""

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from harness.process import wait_until
from harness.samples import create_topic

_SEGMENT = 1_048_576


@pytest.fixture(scope="module")
def quick_broker(broker_kind, tmp_path_factory):
    """A broker that looks for work every fraction of a second instead of every few minutes."""
    from harness.broker import Broker

    broker = Broker(broker_kind, tmp_path_factory.mktemp("quick"), {
        "log.retention.check.interval.ms": "200",
        "log.cleaner.backoff.ms": "200",
        "log.segment.delete.delay.ms": "500",
        "log.initial.task.delay.ms": "100",
    })
    broker.start()
    yield broker
    broker.end()


def fill(broker, topic: str, megabytes: int, key=None, timestamp: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for number in range(megabytes * 100):
        producer.produce(topic, b"x" * 10_000, key(number) if key else None, timestamp=timestamp)
        producer.poll(0)
    assert producer.flush(60) == 0


def bounds(broker, topic: str) -> tuple[int, int]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic})
    try:
        return consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
    finally:
        consumer.close()


def read(broker, topic: str) -> list:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic, "enable.partition.eof": True,
                         "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = []
    while (message := consumer.poll(30)) is not None and not message.error():
        messages.append(message)
    consumer.close()
    assert message is not None, "no end of the partition"
    return messages


def segments(broker, topic: str) -> list[str]:
    return sorted(path.name for path in broker.partition_dir(topic, 0).glob("*.log"))


def test_retention_by_size(quick_broker, name):
    create_topic(quick_broker, name, segment_bytes=_SEGMENT, retention_bytes=2 * _SEGMENT)
    fill(quick_broker, name, 8)
    wait_until(lambda: bounds(quick_broker, name)[0] > 400, 60, "old segments are deleted")
    low, high = bounds(quick_broker, name)
    assert high == 800 and low < 700
    assert [message.offset() for message in read(quick_broker, name)] == list(range(low, high))
    wait_until(lambda: int(segments(quick_broker, name)[0].removesuffix(".log")) <= low
               and len(segments(quick_broker, name)) <= 4, 30, "their files are gone")


def test_retention_by_time(quick_broker, name):
    create_topic(quick_broker, name, segment_bytes=_SEGMENT, retention_ms=3_600_000)
    # Records of 2001: all are too old, the active segment among them.
    fill(quick_broker, name, 3, timestamp=1_000_000_000_000)
    wait_until(lambda: bounds(quick_broker, name) == (300, 300), 60, "all records are deleted")
    fill(quick_broker, name, 1)
    assert [message.offset() for message in read(quick_broker, name)] == list(range(300, 400))


def test_compaction(quick_broker, name):
    """The last value of each key stays at its offset, and a key with a null value goes."""
    create_topic(quick_broker, name, cleanup_policy="compact", segment_bytes=_SEGMENT, min_cleanable_dirty_ratio=0.01,
                 delete_retention_ms=0, min_compaction_lag_ms=0)
    producer = Producer({"bootstrap.servers": quick_broker.bootstrap})
    for number in range(1_000):
        producer.produce(name, f"value {number}".encode() + b"." * 5_000, f"key {number % 10}")
        producer.poll(0)
    producer.produce(name, None, "key 3")
    assert producer.flush(60) == 0
    # The active segment is never compacted: fill it with other keys so that it rolls.
    fill(quick_broker, name, 2, key=lambda number: f"other {number % 5}")

    def kept(count):
        messages = [message for message in read(quick_broker, name) if message.key().startswith(b"key")]
        return messages if len(messages) == count else None

    live = {f"key {key}": 990 + key for key in range(10) if key != 3}
    first = wait_until(lambda: kept(10), 90, "one record for each key", poll_s=0.5)
    assert {message.key().decode(): message.offset() for message in first} == {**live, "key 3": 1_000}
    for message in first:
        assert message.value() is None or message.value().startswith(f"value {message.offset()}".encode())
    assert bounds(quick_broker, name)[1] == 1_201

    # The null itself goes in a later pass, and a pass needs new records.
    fill(quick_broker, name, 2, key=lambda number: f"other {number % 5}")
    second = wait_until(lambda: kept(9), 90, "the null is gone", poll_s=0.5)
    assert {message.key().decode(): message.offset() for message in second} == live
