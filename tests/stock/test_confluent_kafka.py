"""confluent-kafka, and with it librdkafka, which most languages' clients are built on."""

import statistics
import time

import pytest
from confluent_kafka import (OFFSET_BEGINNING, TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError,
                             KafkaException, Producer, TopicPartition)
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   OffsetSpec, ResourceType)

from harness.process import wait_until
from harness.samples import CODEC_IDS, CODECS, FIRST_TIMESTAMP, SAMPLES, batches_on_disk, create_topic


def producer_for(broker, **config) -> Producer:
    return Producer({"bootstrap.servers": broker.bootstrap, **{key.replace("_", "."): value for key, value in config.items()}})


def consumer_for(broker, group: str, **config) -> Consumer:
    return Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                     "session.timeout.ms": 10_000, "heartbeat.interval.ms": 500,
                     **{key.replace("_", "."): value for key, value in config.items()}})


def produce_all(producer: Producer, topic: str, values, **how) -> list:
    """Sends all, and gives the messages as acknowledged; the first refusal is raised."""
    delivered, refused = [], []

    def on_delivery(error, message):
        (refused if error else delivered).append(error or message)

    for value in values:
        producer.produce(topic, value, on_delivery=on_delivery, **how)
        producer.poll(0)
    assert producer.flush(60) == 0
    if refused:
        raise KafkaException(refused[0])
    return delivered


def read(broker, topic: str, count: int, partition: int = 0, offset: int = OFFSET_BEGINNING, **config) -> list:
    consumer = consumer_for(broker, f"{topic}-reader", enable_auto_commit=False, **config)
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        return consume(consumer, count)
    finally:
        consumer.close()


def consume(consumer: Consumer, count: int, timeout_s: float = 30) -> list:
    messages, deadline = [], time.monotonic() + timeout_s
    while len(messages) < count and time.monotonic() < deadline:
        for message in consumer.consume(count - len(messages), 1):
            assert message.error() is None, message.error()
            messages.append(message)
    assert len(messages) == count
    return messages


# -- records

@pytest.mark.parametrize("acks", ["0", "1", "all"])
@pytest.mark.parametrize("codec", CODECS)
def test_records_come_back_unchanged(broker, name, codec, acks):
    create_topic(broker, name)
    producer = producer_for(broker, compression_type=codec, acks=acks, linger_ms=20)
    for sample in SAMPLES:
        producer.produce(name, sample.value, sample.key, headers=list(sample.headers), timestamp=sample.timestamp)
    assert producer.flush(30) == 0
    for sample, message in zip(SAMPLES, read(broker, name, len(SAMPLES)), strict=True):
        assert (message.key(), message.value()) == (sample.key, sample.value)
        assert tuple(message.headers() or ()) == sample.headers
        assert message.timestamp() == (TIMESTAMP_CREATE_TIME, sample.timestamp)
    assert {stored for stored, _ in batches_on_disk(broker, name)} == {CODEC_IDS[codec]}


@pytest.mark.parametrize("sent", CODECS)
@pytest.mark.parametrize("stored", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_compression_type_of_the_topic(broker, name, stored, sent):
    """The broker compresses again what comes in another codec."""
    create_topic(broker, name, compression_type=stored)
    values = [f"{number}".encode() * 100 for number in range(100)]
    acked = produce_all(producer_for(broker, compression_type=sent, linger_ms=50), name, values)
    assert [message.offset() for message in acked] == list(range(100))
    assert [message.value() for message in read(broker, name, 100)] == values
    assert {codec for codec, _ in batches_on_disk(broker, name)} == {CODEC_IDS.get(stored, 0)}


def test_log_append_time(broker, name):
    create_topic(broker, name, message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    (acked,) = produce_all(producer_for(broker), name, [b"v"], timestamp=FIRST_TIMESTAMP)
    (message,) = read(broker, name, 1)
    kind, timestamp = message.timestamp()
    assert kind == TIMESTAMP_LOG_APPEND_TIME and before - 1000 <= timestamp <= int(time.time() * 1000) + 1000
    assert acked.timestamp() == (TIMESTAMP_LOG_APPEND_TIME, timestamp)


def test_large_messages(broker, name):
    create_topic(broker, name)
    create_topic(broker, f"{name}-large", max_message_bytes=6_000_000)
    producer = producer_for(broker, message_max_bytes=10_000_000)
    produce_all(producer, name, [b"x" * 1_000_000])
    with pytest.raises(KafkaException) as refused:
        produce_all(producer, name, [b"x" * 1_100_000])
    assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    produce_all(producer, f"{name}-large", [b"y" * 5_000_000])
    (message,) = read(broker, f"{name}-large", 1)
    assert message.value() == b"y" * 5_000_000
    assert len(read(broker, name, 1)[0].value()) == 1_000_000


def test_idempotent_producer(broker, name):
    create_topic(broker, name, partitions=3)
    producer = producer_for(broker, enable_idempotence=True, batch_num_messages=20)
    for number in range(3_000):
        producer.produce(name, str(number), partition=number % 3)
        producer.poll(0)
    assert producer.flush(60) == 0
    for partition in range(3):
        values = [int(message.value()) for message in read(broker, name, 1_000, partition)]
        assert values == list(range(partition, 3_000, 3))


def test_a_waiting_fetch_wakes_on_the_append(broker, name):
    """fetch.wait.max.ms is 5 s here, so a record that had to wait for the timer would be seen."""
    create_topic(broker, name)
    consumer = consumer_for(broker, name, fetch_wait_max_ms=5_000, enable_auto_commit=False)
    consumer.assign([TopicPartition(name, 0, OFFSET_BEGINNING)])
    producer = producer_for(broker, linger_ms=0)
    produce_all(producer, name, [b"warm up"])
    consume(consumer, 1)
    waits = []
    for number in range(20):
        sent = time.monotonic()
        producer.produce(name, str(number))
        consume(consumer, 1)
        waits.append(time.monotonic() - sent)
        producer.flush(10)
    consumer.close()
    assert statistics.median(waits) < 0.25, waits


def test_seek_by_timestamp(broker, name):
    create_topic(broker, name)
    producer = producer_for(broker)
    for number in range(100):
        producer.produce(name, str(number), timestamp=FIRST_TIMESTAMP + number * 1_000)
    assert producer.flush(30) == 0
    consumer = consumer_for(broker, name)

    def at(timestamp):
        (found,) = consumer.offsets_for_times([TopicPartition(name, 0, timestamp)], 30)
        return found.offset

    assert at(FIRST_TIMESTAMP - 1) == 0
    assert at(FIRST_TIMESTAMP + 41_001) == 42
    assert at(FIRST_TIMESTAMP + 42_000) == 42
    assert at(FIRST_TIMESTAMP + 100_000) == -1
    assert consumer.get_watermark_offsets(TopicPartition(name, 0), 30) == (0, 100)
    consumer.assign([TopicPartition(name, 0, 42)])
    assert consume(consumer, 1)[0].value() == b"42"
    consumer.seek(TopicPartition(name, 0, 7))
    assert consume(consumer, 1)[0].value() == b"7"
    consumer.close()


def test_an_offset_out_of_range_is_said(broker, name):
    create_topic(broker, name)
    produce_all(producer_for(broker), name, [b"only"])
    consumer = consumer_for(broker, name, auto_offset_reset="error")
    consumer.assign([TopicPartition(name, 0, 99)])
    message = wait_until(lambda: consumer.poll(1), 30, "an error")
    assert message.error().code() == KafkaError._AUTO_OFFSET_RESET
    consumer.close()


# -- groups

def owned(consumers, topic) -> list[set[int]]:
    """What each consumer holds after it was polled once more."""
    for consumer in consumers:
        consumer.poll(0.05)
    return [{part.partition for part in consumer.assignment() if part.topic == topic} for consumer in consumers]


def settles(consumers, topic, partitions: int, each: tuple[int, ...]) -> None:
    """Waits until every partition has one owner and the shares are as given."""

    def settled():
        shares = owned(consumers, topic)
        return sorted(map(len, shares)) == sorted(each) and set().union(*shares) == set(range(partitions))

    wait_until(settled, 45, f"{partitions} partitions shared as {each}")


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "cooperative-sticky"])
def test_rebalances(broker, name, assignor):
    create_topic(broker, name, partitions=6)
    group = []
    try:
        for shares in ((6,), (3, 3), (2, 2, 2)):
            consumer = consumer_for(broker, name, partition_assignment_strategy=assignor)
            consumer.subscribe([name])
            group.append(consumer)
            settles(group, name, 6, shares)
        group.pop(0).close()
        settles(group, name, 6, (3, 3))
    finally:
        for consumer in group:
            consumer.close()


def test_a_member_that_dies_loses_its_partitions(broker, name):
    """No LeaveGroup: the session runs out."""
    create_topic(broker, name, partitions=4)
    stays, dies = (consumer_for(broker, name, session_timeout_ms=6_000, max_poll_interval_ms=6_000) for _ in range(2))
    for consumer in (stays, dies):
        consumer.subscribe([name])
    settles([stays, dies], name, 4, (2, 2))
    # librdkafka leaves out heartbeats of a consumer that isn't polled for max.poll.interval.ms.
    settles([stays], name, 4, (4,))
    stays.close()
    dies.close()


def test_static_members(broker, name):
    create_topic(broker, name, partitions=4)

    def member(instance):
        consumer = consumer_for(broker, name, group_instance_id=instance, session_timeout_ms=30_000)
        consumer.subscribe([name])
        return consumer

    one, two = member("one"), member("two")
    settles([one, two], name, 4, (2, 2))
    had = owned([one, two], name)
    # A static member that goes keeps its share, and gets it back.
    two.close()
    for _ in range(10):
        assert owned([one], name) == [had[0]]
    two = member("two")
    settles([one, two], name, 4, (2, 2))
    assert owned([one, two], name) == had

    # A second member of the same name fences the first.
    usurper = member("two")

    def fenced():
        one.poll(0.05), usurper.poll(0.05)
        message = two.poll(0.05)
        return message is not None and message.error() and message.error().code() in (
            KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL)

    wait_until(fenced, 45, "the first of the two is fenced")
    for consumer in (one, two, usurper):
        consumer.close()


def test_commits(broker, name):
    create_topic(broker, name, partitions=2)
    producer = producer_for(broker)
    for partition in (0, 1):
        produce_all(producer, name, [b"v"] * 10, partition=partition)
    consumer = consumer_for(broker, name, enable_auto_commit=False)
    consumer.subscribe([name])
    consume(consumer, 20)
    consumer.commit(offsets=[TopicPartition(name, 0, 3, "so far"), TopicPartition(name, 1, 7)], asynchronous=False)
    consumer.close()

    again = consumer_for(broker, name, enable_auto_commit=False)
    wanted = [TopicPartition(name, 0), TopicPartition(name, 1)]
    first, second = again.committed(wanted, 30)
    assert (first.offset, first.metadata, second.offset) == (3, "so far", 7)
    again.subscribe([name])
    left = consume(again, 10)
    assert sorted((message.partition(), message.offset()) for message in left) == (
        [(0, offset) for offset in range(3, 10)] + [(1, offset) for offset in range(7, 10)])
    again.close()


# -- topics made by themselves

def test_auto_creation(broker, name):
    produce_all(producer_for(broker), name, [b"first"])
    assert read(broker, name, 1)[0].value() == b"first"


def test_auto_creation_switched_off(start_broker):
    broker = start_broker({"auto.create.topics.enable": "false"})
    with pytest.raises(KafkaException) as refused:
        produce_all(producer_for(broker, message_timeout_ms=5_000), "nowhere", [b"first"])
    assert refused.value.args[0].code() in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._MSG_TIMED_OUT)
    assert "nowhere" not in AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=30).topics


# -- administration

@pytest.fixture
def admin(broker):
    return AdminClient({"bootstrap.servers": broker.bootstrap})


def code_of(future) -> int:
    with pytest.raises(KafkaException) as refused:
        future.result(30)
    return refused.value.args[0].code()


def test_admin_topics(admin, name):
    new = NewTopic(name, 2, 1)
    assert admin.create_topics([new], validate_only=True)[name].result(30) is None
    assert name not in admin.list_topics(timeout=30).topics
    admin.create_topics([new])[name].result(30)
    assert code_of(admin.create_topics([new])[name]) == KafkaError.TOPIC_ALREADY_EXISTS
    assert code_of(admin.create_topics([NewTopic("bad/name", 1, 1)])["bad/name"]) == KafkaError.TOPIC_EXCEPTION
    assert code_of(admin.create_topics([NewTopic(f"{name}0", 0, 1)])[f"{name}0"]) == KafkaError.INVALID_PARTITIONS
    assert code_of(admin.create_topics([NewTopic(f"{name}2", 1, 2)])[f"{name}2"]) == KafkaError.INVALID_REPLICATION_FACTOR
    admin.create_partitions([NewPartitions(name, 4)])[name].result(30)
    assert len(admin.list_topics(name, timeout=30).topics[name].partitions) == 4
    assert code_of(admin.create_partitions([NewPartitions(name, 4)])[name]) == KafkaError.INVALID_PARTITIONS
    admin.delete_topics([name])[name].result(30)
    assert code_of(admin.delete_topics([name])[name]) == KafkaError.UNKNOWN_TOPIC_OR_PART
    wait_until(lambda: name not in admin.list_topics(timeout=30).topics, 10, "the topic is gone")


def test_admin_configs(admin, broker, name):
    create_topic(broker, name)

    def resource(**entries):
        changes = [ConfigEntry(key.replace("_", "."), value, incremental_operation=operation)
                   for key, (operation, value) in entries.items()]
        return ConfigResource(ResourceType.TOPIC, name, incremental_configs=changes)

    def value(key):
        (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
        return future.result(30)[key].value

    def change(**entries):
        (future,) = admin.incremental_alter_configs([resource(**entries)]).values()
        return future

    change(retention_ms=(AlterConfigOpType.SET, "1234567")).result(30)
    assert value("retention.ms") == "1234567"
    change(cleanup_policy=(AlterConfigOpType.APPEND, "compact")).result(30)
    assert value("cleanup.policy") == "delete,compact"
    change(cleanup_policy=(AlterConfigOpType.SUBTRACT, "delete")).result(30)
    assert value("cleanup.policy") == "compact"
    change(retention_ms=(AlterConfigOpType.DELETE, None)).result(30)
    assert value("retention.ms") == "604800000"
    assert code_of(change(retention_ms=(AlterConfigOpType.SET, "soon"))) == KafkaError.INVALID_CONFIG


def test_admin_groups(admin, broker, name):
    create_topic(broker, name)
    produce_all(producer_for(broker), name, [b"v"] * 5)
    consumer = consumer_for(broker, name)
    consumer.subscribe([name])
    consume(consumer, 5)
    described = admin.describe_consumer_groups([name])[name].result(30)
    assert described.state.name == "STABLE" and len(described.members) == 1
    assert [part.partition for part in described.members[0].assignment.topic_partitions] == [0]
    assert name in [group.group_id for group in admin.list_consumer_groups().result(30).valid]
    assert code_of(admin.delete_consumer_groups([name])[name]) == KafkaError.NON_EMPTY_GROUP
    consumer.commit(asynchronous=False)
    consumer.close()

    from confluent_kafka import ConsumerGroupTopicPartitions
    wanted = ConsumerGroupTopicPartitions(name, [TopicPartition(name, 0)])
    assert admin.list_consumer_group_offsets([wanted])[name].result(30).topic_partitions[0].offset == 5
    moved = ConsumerGroupTopicPartitions(name, [TopicPartition(name, 0, 2)])
    admin.alter_consumer_group_offsets([moved])[name].result(30)
    assert admin.list_consumer_group_offsets([wanted])[name].result(30).topic_partitions[0].offset == 2
    admin.delete_consumer_groups([name])[name].result(30)
    assert code_of(admin.delete_consumer_groups([name])[name]) == KafkaError.GROUP_ID_NOT_FOUND


def test_admin_offsets_and_cluster(admin, broker, name):
    create_topic(broker, name)
    producer = producer_for(broker)
    for number in range(10):
        producer.produce(name, str(number), timestamp=FIRST_TIMESTAMP + (5 - number) ** 2)
    assert producer.flush(30) == 0
    part = TopicPartition(name, 0)

    def offset(spec):
        (future,) = admin.list_offsets({part: spec}).values()
        return future.result(30).offset

    assert (offset(OffsetSpec.earliest()), offset(OffsetSpec.latest())) == (0, 10)
    assert offset(OffsetSpec.max_timestamp()) == 0
    assert offset(OffsetSpec.for_timestamp(FIRST_TIMESTAMP)) == 0
    (future,) = admin.delete_records([TopicPartition(name, 0, 6)]).values()
    assert future.result(30).low_watermark == 6
    assert offset(OffsetSpec.earliest()) == 6
    cluster = admin.describe_cluster().result(30)
    assert len(cluster.cluster_id) == 22 and [node.id for node in cluster.nodes] == [1]
