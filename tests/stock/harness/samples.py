"""Records that every client sends and must get back unchanged, and topics to send them to."""

import time
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient, NewTopic

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
# A codec's number in the low three bits of a batch's attributes.
CODEC_IDS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


@dataclass(frozen=True)
class Sample:
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


# A day old, so that what comes back is not the clock of the broker, and not old enough for retention to delete it.
FIRST_TIMESTAMP = (int(time.time()) - 86_400) * 1_000
SAMPLES = [
    Sample(b"key", b"value", (), FIRST_TIMESTAMP),
    Sample(None, b"no key", (("one", b"1"),), FIRST_TIMESTAMP + 1_000),
    Sample(b"no value", None, (), FIRST_TIMESTAMP + 2_000),
    Sample(b"", b"", (("empty", b""),), FIRST_TIMESTAMP + 3_000),
    Sample(b"twice", b"the same header key", (("h", b"1"), ("h", b"2"), ("other", b"\x00\xff"), ("h", b"1")), FIRST_TIMESTAMP + 4_000),
    Sample("schlüssel ✓".encode(), "žluťoučký kůň".encode(), (("ключ", "значение".encode()),), FIRST_TIMESTAMP + 5_000),
    *(Sample(str(number).encode(), b"bulk " * 40, (), FIRST_TIMESTAMP + 6_000 + number) for number in range(50)),
]


def create_topic(broker, topic: str, partitions: int = 1, **config) -> str:
    """Creates a topic, config keys with _ for dots, and gives its name."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    wanted = NewTopic(topic, partitions, 1, config={key.replace("_", "."): str(value) for key, value in config.items()})
    admin.create_topics([wanted])[topic].result(30)
    return topic


def batches_on_disk(broker, topic: str, partition: int = 0) -> list[tuple[int, int]]:
    """(codec number, count of records) of each batch in the first segment of a partition."""
    log = (broker.partition_dir(topic, partition) / f"{0:020}.log").read_bytes()
    found, at = [], 0
    while at + 61 <= len(log):
        length = int.from_bytes(log[at + 8 : at + 12], "big")
        attributes = int.from_bytes(log[at + 21 : at + 23], "big")
        found.append((attributes & 7, int.from_bytes(log[at + 57 : at + 61], "big")))
        at += 12 + length
    return found
