"""kafka-python: the newest one, and in a process of its own the one that tutorials install."""

import threading

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import MessageSizeTooLargeError, TopicAlreadyExistsError

from harness import environment
from harness.kafka_python import subscribe
from harness.process import run, wait_until
from harness.samples import CODECS, FIRST_TIMESTAMP, SAMPLES, create_topic


def producer_for(broker, **config) -> KafkaProducer:
    return KafkaProducer(bootstrap_servers=broker.bootstrap, **config)


def consumer_for(broker, *topics, **config) -> KafkaConsumer:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", **config)
    subscribe(consumer, topics)
    return consumer


def consume(consumer, count: int) -> list:
    records = []

    def enough():
        for batch in consumer.poll(200).values():
            records.extend(batch)
        return len(records) >= count

    wait_until(enough, 30, f"{count} records, {len(records)} so far", poll_s=0)
    assert len(records) == count
    return records


@pytest.mark.parametrize("acks", [0, 1, "all"])
@pytest.mark.parametrize("codec", CODECS)
def test_records_come_back_unchanged(broker, name, codec, acks):
    create_topic(broker, name)
    # An idempotent producer takes only acks=all.
    producer = producer_for(broker, compression_type=None if codec == "none" else codec, acks=acks, linger_ms=20,
                            enable_idempotence=acks == "all")
    for sample in SAMPLES:
        producer.send(name, sample.value, sample.key, list(sample.headers), 0, sample.timestamp)
    producer.flush(30)
    producer.close()
    consumer = consumer_for(broker, name)
    for sample, record in zip(SAMPLES, consume(consumer, len(SAMPLES)), strict=True):
        assert (record.key, record.value, tuple(record.headers)) == (sample.key, sample.value, sample.headers)
        assert (record.timestamp, record.timestamp_type) == (sample.timestamp, 0)
    consumer.close()


@pytest.mark.parametrize("assignor", [RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor,
                                      CooperativeStickyAssignor], ids=lambda assignor: assignor.name)
def test_rebalances(broker, name, assignor):
    create_topic(broker, name, partitions=4)
    group = []
    stop = threading.Event()

    def poll_until_stopped(consumer, leave):
        while not stop.is_set() and not leave.is_set():
            consumer.poll(100)
        consumer.close()

    def join():
        consumer = consumer_for(broker, name, group_id=name, partition_assignment_strategy=[assignor],
                                heartbeat_interval_ms=300, session_timeout_ms=10_000)
        leave = threading.Event()
        thread = threading.Thread(target=poll_until_stopped, args=(consumer, leave))
        thread.start()
        group.append((consumer, leave, thread))

    def settles(*shares):
        def settled():
            parts = [sorted(part.partition for part in set(consumer.assignment())) for consumer, _, _ in group]
            return sorted(map(len, parts)) == sorted(shares) and sorted(sum(parts, [])) == [0, 1, 2, 3]

        wait_until(settled, 45, f"shares of {shares}")

    try:
        join()
        settles(4)
        join()
        settles(2, 2)
        _, leave, thread = group.pop(0)
        leave.set()
        thread.join(30)
        settles(4)
    finally:
        stop.set()
        for _, _, thread in group:
            thread.join(30)


def test_commit_seek_and_times(broker, name):
    create_topic(broker, name)
    producer = producer_for(broker)
    for number in range(50):
        producer.send(name, str(number).encode(), timestamp_ms=FIRST_TIMESTAMP + number * 1_000)
    producer.flush(30)
    part = TopicPartition(name, 0)
    consumer = consumer_for(broker, name, group_id=name, enable_auto_commit=False)
    assert len(consume(consumer, 50)) == 50
    consumer.commit({part: OffsetAndMetadata(20, "twenty", -1)})
    assert consumer.committed(part) == 20
    found = consumer.offsets_for_times({part: FIRST_TIMESTAMP + 30_000})[part]
    assert (found.offset, found.timestamp) == (30, FIRST_TIMESTAMP + 30_000)
    assert consumer.offsets_for_times({part: FIRST_TIMESTAMP + 90_000})[part] is None
    assert consumer.beginning_offsets([part])[part] == 0 and consumer.end_offsets([part])[part] == 50
    consumer.seek(part, 45)
    assert [record.value for record in consume(consumer, 5)] == [b"45", b"46", b"47", b"48", b"49"]
    consumer.close()
    again = consumer_for(broker, name, group_id=name)
    assert consume(again, 30)[0].offset == 20
    again.close()


def test_large_message_is_refused(broker, name):
    create_topic(broker, name)
    # An idempotent one would give up after the refusal.
    producer = producer_for(broker, max_request_size=10_000_000, enable_idempotence=False)
    with pytest.raises(MessageSizeTooLargeError):
        producer.send(name, b"x" * 2_000_000).get(30)
    assert producer.send(name, b"x" * 1_000_000).get(30).offset == 0
    producer.close()


def test_admin(broker, name):
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(name, 2, 1)])
    with pytest.raises(TopicAlreadyExistsError):
        admin.create_topics([NewTopic(name, 2, 1)])
    assert name in admin.list_topics()
    admin.create_partitions({name: NewPartitions(3)})
    (described,) = admin.describe_topics([name])
    assert len(described["partitions"]) == 3

    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"retention.ms": "5000"})])
    refused = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"retention.ms": "soon"})])
    assert "InvalidConfigurationError" in refused["topic"][name]
    assert "5000" in str(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name, ["retention.ms"])]))

    producer = producer_for(broker)
    producer.send(name, b"v", partition=0).get(30)
    consumer = consumer_for(broker, name, group_id=name)
    consume(consumer, 1)
    consumer.commit()
    assert name in str(admin.list_groups())
    assert "Stable" in str(admin.describe_groups([name]))
    assert "partition=0" in str(admin.list_group_offsets([name])).replace("'partition': 0", "partition=0")
    consumer.close()
    admin.delete_groups([name])
    admin.delete_topics([name])
    wait_until(lambda: name not in admin.list_topics(), 10, "the topic is gone")
    assert admin.describe_cluster()["controller_id"] == 1
    admin.close()


_TUTORIAL = """
import json, sys
from kafka import KafkaConsumer, KafkaProducer
from kafka.version import __version__

bootstrap, topic = sys.argv[1:]
producer = KafkaProducer(bootstrap_servers=[bootstrap], value_serializer=lambda v: json.dumps(v).encode("utf-8"))
for number in range(100):
    producer.send(topic, value={"number": number})
producer.flush()
consumer = KafkaConsumer(topic, bootstrap_servers=[bootstrap], group_id=topic, auto_offset_reset="earliest",
                         value_deserializer=lambda v: json.loads(v.decode("utf-8")), consumer_timeout_ms=30000)
for at, record in enumerate(consumer):
    assert record.value == {"number": at} and record.offset == at, record
    if at == 99:
        break
consumer.close()
print(__version__, "read", at + 1)
"""


def test_the_kafka_python_of_tutorials(broker, name):
    """The topic is made by the first record."""
    finished = run([str(environment.tutorial_python()), "-c", _TUTORIAL, broker.bootstrap, name], timeout_s=90)
    assert finished.lines == ["2.0.6 read 100"], finished.report
