"""aiokafka: its own asyncio implementation of the protocol."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import MessageSizeTooLargeError

from harness.samples import CODECS, FIRST_TIMESTAMP, SAMPLES, create_topic


async def consume(consumer, count: int) -> list:
    return [await asyncio.wait_for(consumer.getone(), 30) for _ in range(count)]


@pytest.mark.parametrize("acks", [0, 1, "all"])
@pytest.mark.parametrize("codec", CODECS)
def test_records_come_back_unchanged(broker, name, codec, acks):
    async def roundtrip():
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks=acks, linger_ms=20,
                                    compression_type=None if codec == "none" else codec) as producer:
            sent = [await producer.send(name, sample.value, sample.key, 0, sample.timestamp, list(sample.headers))
                    for sample in SAMPLES]
            await asyncio.gather(*sent)
        async with AIOKafkaConsumer(name, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest") as consumer:
            return await consume(consumer, len(SAMPLES))

    create_topic(broker, name)
    for sample, record in zip(SAMPLES, asyncio.run(roundtrip()), strict=True):
        assert (record.key, record.value, tuple(record.headers)) == (sample.key, sample.value, sample.headers)
        assert record.timestamp == sample.timestamp


def test_idempotent_producer(broker, name):
    async def produce():
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True, max_batch_size=1_000) as producer:
            sent = [await producer.send(name, str(number).encode(), partition=0) for number in range(500)]
            return [metadata.offset for metadata in await asyncio.gather(*sent)]

    create_topic(broker, name)
    assert asyncio.run(produce()) == list(range(500))


@pytest.mark.parametrize("assignor", [RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor],
                         ids=lambda assignor: assignor.name)
def test_rebalances(broker, name, assignor):
    create_topic(broker, name, partitions=4)

    def member():
        return AIOKafkaConsumer(name, bootstrap_servers=broker.bootstrap, group_id=name, heartbeat_interval_ms=300,
                                partition_assignment_strategy=[assignor], rebalance_timeout_ms=10_000)

    async def settles(group, *shares):
        def settled():
            parts = [sorted(part.partition for part in consumer.assignment()) for consumer in group]
            return sorted(map(len, parts)) == sorted(shares) and sorted(sum(parts, [])) == [0, 1, 2, 3]

        async with asyncio.timeout(45):
            while not settled():
                await asyncio.sleep(0.05)

    async def scenario():
        one, two = member(), member()
        await one.start()
        await settles([one], 4)
        await two.start()
        await settles([one, two], 2, 2)
        await one.stop()
        await settles([two], 4)
        await two.stop()

    asyncio.run(scenario())


def test_times_commits_and_admin(broker, name):
    async def scenario():
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(name, 1, 1)])
        assert name in await admin.list_topics()
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=10_000_000) as producer:
            for number in range(20):
                await producer.send_and_wait(name, str(number).encode(), timestamp_ms=FIRST_TIMESTAMP + number)
            with pytest.raises(MessageSizeTooLargeError):
                await producer.send_and_wait(name, b"x" * 2_000_000)
        part = TopicPartition(name, 0)
        async with AIOKafkaConsumer(name, bootstrap_servers=broker.bootstrap, group_id=name, enable_auto_commit=False,
                                    auto_offset_reset="earliest") as consumer:
            assert (await consume(consumer, 20))[-1].offset == 19
            assert (await consumer.offsets_for_times({part: FIRST_TIMESTAMP + 12}))[part].offset == 12
            consumer.seek(part, 12)
            assert (await consume(consumer, 1))[0].value == b"12"
            await consumer.commit({part: 13})
            assert await consumer.committed(part) == 13
        offsets = await admin.list_consumer_group_offsets(name)
        assert offsets[part].offset == 13
        await admin.delete_topics([name])
        await admin.close()

    asyncio.run(scenario())
