"""What one client wrote, every other one reads, in each codec: stored as it came, and compressed again by the broker.

Snappy comes in two framings and lz4 with several frame options, depending on the client's library."""

import asyncio
import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer, TopicPartition
from kafka import KafkaConsumer, KafkaProducer

from harness import environment
from harness.process import run
from harness.samples import CODEC_IDS, batches_on_disk, create_topic
from harness.tools import KafkaTools

_LINES = 40


def lines_of(client: str) -> list[str]:
    return [f"{client} {number} " + "abc" * 30 for number in range(_LINES)]


def produce_confluent(broker, topic, codec):
    producer = Producer({"bootstrap.servers": broker.bootstrap, "compression.type": codec, "linger.ms": 50})
    for line in lines_of("confluent"):
        producer.produce(topic, line)
    assert producer.flush(30) == 0


def produce_kafka_python(broker, topic, codec):
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=codec, linger_ms=50)
    for line in lines_of("kafka-python"):
        producer.send(topic, line.encode())
    producer.close()


def produce_aiokafka(broker, topic, codec):
    async def produce():
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=codec, linger_ms=50) as producer:
            await asyncio.gather(*[await producer.send(topic, line.encode()) for line in lines_of("aiokafka")])

    asyncio.run(produce())


def produce_kcat(broker, topic, codec):
    run([environment.program("kcat"), "-b", broker.bootstrap, "-P", "-t", topic, "-z", codec, "-X", "linger.ms=50"],
        stdin="".join(f"{line}\n" for line in lines_of("kcat")))


def produce_kafkajs(broker, topic, codec):
    modules = environment.node_modules()
    program = Path(__file__).parent / "javascript" / "produce.js"
    run(["node", str(program), broker.bootstrap, topic, codec], env={"NODE_PATH": str(modules)},
        stdin=json.dumps(lines_of("kafkajs")))


def produce_java(version):
    def produce(broker, topic, codec):
        KafkaTools(version, broker.bootstrap).run("kafka-console-producer", "--topic", topic, "--compression-codec", codec,
                                                  stdin="".join(f"{line}\n" for line in lines_of(f"java-{version}")))

    return produce


PRODUCERS = {
    "confluent": produce_confluent,
    "kafka-python": produce_kafka_python,
    "aiokafka": produce_aiokafka,
    "kcat": produce_kcat,
    "kafkajs": produce_kafkajs,
    **{f"java-{version}": produce_java(version) for version in environment.KAFKA_VERSIONS},
}


def read_confluent(broker, topic, count):
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = []
    while len(messages) < count and (more := consumer.consume(count - len(messages), 30)):
        messages += more
    consumer.close()
    return [message.value().decode() for message in messages]


def read_kafka_python(broker, topic, count):
    consumer = KafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000)
    values = [record.value.decode() for _, record in zip(range(count), consumer)]
    consumer.close()
    return values


def read_aiokafka(broker, topic, count):
    async def read():
        async with AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest") as consumer:
            return [(await asyncio.wait_for(consumer.getone(), 30)).value.decode() for _ in range(count)]

    return asyncio.run(read())


def read_kcat(broker, topic, count):
    return run([environment.program("kcat"), "-b", broker.bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q"]).lines


def read_java(version):
    def read(broker, topic, count):
        return KafkaTools(version, broker.bootstrap).run("kafka-console-consumer", "--topic", topic, "--from-beginning",
                                                         "--max-messages", str(count), "--timeout-ms", "30000").lines

    return read


READERS = {
    "confluent": read_confluent,
    "kafka-python": read_kafka_python,
    "aiokafka": read_aiokafka,
    "kcat": read_kcat,
    "java-3.3.1": read_java("3.3.1"),
    "java-4.3.1": read_java("4.3.1"),
}


@pytest.mark.parametrize("stored", ["producer", "lz4", "zstd"])
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_all_read_what_all_wrote(broker, name, codec, stored):
    create_topic(broker, name, compression_type=stored)
    for produce in PRODUCERS.values():
        produce(broker, name, codec)
    codecs = {codec_id for codec_id, _ in batches_on_disk(broker, name)}
    # librdkafka and others leave a batch uncompressed where that is smaller, never the broker.
    allowed = {CODEC_IDS[codec], 0} if stored == "producer" else {CODEC_IDS[stored]}
    assert codecs <= allowed, codecs

    written = [line for client in PRODUCERS for line in lines_of(client)]
    for reader in READERS.values() if stored == "producer" else [read_confluent, read_java("3.9.0")]:
        assert reader(broker, name, len(written)) == written
