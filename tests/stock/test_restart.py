"""What clients find again after a controlled shutdown and after kill -9."""

import signal

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from harness.samples import create_topic


@pytest.fixture(params=[signal.SIGTERM, signal.SIGKILL], ids=["controlled", "kill-9"])
def restart(request, broker_kind):
    """Ends a broker in one of the two ways and starts it again on its data."""

    def end_and_start(broker):
        if request.param == signal.SIGKILL:
            broker.kill()
        else:
            code = broker.stop()
            assert code == (0 if broker_kind == "ottla" else 143)
        broker.start()

    return end_and_start


def producer_for(broker, **config) -> Producer:
    return Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", **config})


def produce(producer: Producer, topic: str, values) -> list[int]:
    offsets, errors = [], []
    for value in values:
        producer.produce(topic, str(value), partition=0,
                         on_delivery=lambda error, message: errors.append(error) if error else offsets.append(message.offset()))
    assert producer.flush(60) == 0 and not errors, errors
    return offsets


def read(broker, topic: str, count: int) -> list[str]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": f"{topic}-reader", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    while True:
        message = consumer.poll(30)
        assert message is not None, f"{len(values)} of {count}"
        if message.error():
            break
        assert message.offset() == len(values)
        values.append(message.value().decode())
    consumer.close()
    assert len(values) == count
    return values


def test_deleted_records_stay_deleted(start_broker, restart, broker_kind, request):
    if broker_kind == "kafka" and "kill-9" in request.node.name:
        pytest.skip("Kafka writes where its logs start once a minute")
    broker = start_broker()
    topic = create_topic(broker, "trimmed")
    produce(producer_for(broker), topic, range(10))
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    (deleted,) = admin.delete_records([TopicPartition(topic, 0, 6)]).values()
    assert deleted.result(30).low_watermark == 6
    restart(broker)
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "trimmed-reader"})
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30) == (6, 10)
    consumer.close()


def test_records_topics_configs_and_offsets_survive(start_broker, restart):
    broker = start_broker()
    topic = create_topic(broker, "kept", partitions=3, retention_ms=99_000_000)
    assert produce(producer_for(broker), topic, range(1_000)) == list(range(1_000))
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "kept-group", "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(topic, 0, 123, "note"), TopicPartition(topic, 2, 7)], asynchronous=False)
    consumer.close()
    before = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=30)

    for _ in range(2):
        restart(broker)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        after = admin.list_topics(timeout=30)
        assert after.cluster_id == before.cluster_id
        assert len(after.topics[topic].partitions) == 3
        assert read(broker, topic, 1_000) == [str(number) for number in range(1_000)]
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "kept-group"})
        first, second, third = consumer.committed([TopicPartition(topic, partition) for partition in range(3)], 30)
        assert (first.offset, first.metadata, second.offset, third.offset) == (123, "note", -1001, 7)
        consumer.close()


def test_an_idempotent_producer_goes_on(start_broker, restart):
    """The broker finds the producer's sequence numbers again, in a snapshot or in the log."""
    broker = start_broker()
    topic = create_topic(broker, "idempotent")
    producer = producer_for(broker, **{"enable.idempotence": True})
    produce(producer, topic, range(100))
    restart(broker)
    assert produce(producer, topic, range(100, 200)) == list(range(100, 200))
    assert read(broker, topic, 200) == [str(number) for number in range(200)]


def test_a_deleted_topic_stays_deleted(start_broker, restart):
    broker = start_broker()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for topic in ("gone", "back"):
        create_topic(broker, topic)
        produce(producer_for(broker), topic, range(10))
        admin.delete_topics([topic])[topic].result(30)
    create_topic(broker, "back", partitions=2)
    restart(broker)
    topics = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=30).topics
    assert "gone" not in topics and len(topics["back"].partitions) == 2
    # The new topic of an old name has nothing of the old one.
    assert produce(producer_for(broker), "back", range(5)) == list(range(5))
    assert read(broker, "back", 5) == [str(number) for number in range(5)]
