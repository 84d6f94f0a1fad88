"""What the node says and does when its surroundings are wrong: exit codes, full and damaged disks, failed syncs.

Exit codes: 2 configuration, 3 cannot start, 74 stopped to protect data (see broker/src/main.rs).
"""

import logging
import os
import re
import shutil
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from harness import environment
from harness.process import Process, wait_until

CONFIG_REFUSED, CANNOT_START, PROTECTED = 2, 3, 74
TOPIC = "t"

quiet = logging.getLogger("librdkafka")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


def refused_start(broker, code: int, *words: str) -> None:
    """The node ends by itself, soon, with this code, and says these words in its last lines."""
    broker.spawn()
    found = broker.process.wait(20)
    said = "\n".join(broker.process.error_lines)
    assert found == code, broker.log()
    for word in words:
        assert word in said, broker.log()
    assert "panicked" not in said, said


def admin(broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap}, logger=quiet)


def create_topic(broker, name: str = TOPIC, **config: str) -> None:
    # Configs are as in Kafka, with _ for a dot.
    config = {key.replace("_", "."): value for key, value in config.items()}
    client = admin(broker)
    client.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(20)


class Writer:
    """One record after the other, none tried again: each outcome is an offset or the name of an error."""

    def __init__(self, broker, **config):
        self.outcomes: list[int | str] = []
        self._producer = Producer({
            "bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 0, "message.send.max.retries": 0,
            "message.timeout.ms": 5_000, "batch.num.messages": 1, "reconnect.backoff.max.ms": 100, **config}, logger=quiet)

    def write(self, value: bytes, topic: str = TOPIC) -> int | str:
        self._producer.produce(topic, value, partition=0, on_delivery=self._delivered)
        assert self._producer.flush(20) == 0
        return self.outcomes[-1]

    def _delivered(self, error, message) -> None:
        self.outcomes.append(message.offset() if error is None else error.name())


def read(broker, count: int, start: int = OFFSET_BEGINNING, topic: str = TOPIC) -> list[tuple[int, bytes]]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "reader", "check.crcs": True,
                         "enable.auto.commit": False}, logger=quiet)
    consumer.assign([TopicPartition(topic, 0, start)])
    found = []
    deadline = time.monotonic() + 20
    try:
        while len(found) < count and time.monotonic() < deadline:
            for message in consumer.consume(count, 0.5):
                if message.error() is not None:
                    raise KafkaException(message.error())
                found.append((message.offset(), message.value()))
    finally:
        # librdkafka now and then never returns from a close while an error, as of a wrong CRC, waits to be consumed.
        consumer.unassign()
        while consumer.consume(1_000, 0.2):
            pass
        consumer.close()
    return found


# -- starts that are refused


@pytest.mark.parametrize("key, value", [
    ("node.id", "one"), ("log.segment.bytes", "-1"), ("num.partitions", "0"), ("ottla.durability", "maybe"),
    ("listeners", "nonsense"), ("process.roles", "observer"),
])
def test_a_bad_value_is_named(make_broker, key, value):
    broker = make_broker({key: value})
    refused_start(broker, CONFIG_REFUSED, f"{key}={value}: ")
    assert not broker.data_dir.exists(), "a refused configuration touched the disk"


def test_a_taken_port(make_broker):
    broker = make_broker()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", broker.port))
        taken.listen()
        refused_start(broker, CANNOT_START, f"127.0.0.1:{broker.port}", "in use", "listeners")
    assert not broker.data_dir.exists(), "the port comes before the data"


def test_a_directory_that_cannot_be_written(loop_disk, make_broker):
    disk = loop_disk(32)
    broker = make_broker({"log.dirs": str(disk.mount_point / "data")})
    os.system(f"mount -o remount,ro {disk.mount_point}")
    refused_start(broker, CANNOT_START, str(disk.mount_point / "data"), "Read-only file system")


def test_a_directory_that_is_a_file(make_broker):
    broker = make_broker()
    broker.directory.mkdir()
    broker.data_dir.write_text("not a directory")
    refused_start(broker, CANNOT_START, str(broker.data_dir))


def test_a_directory_in_use(make_broker):
    owner = make_broker().start()
    second = make_broker({"log.dirs": str(owner.data_dir)})
    refused_start(second, CANNOT_START, str(owner.data_dir), "in use by another process")
    assert owner.process.running()


def test_a_directory_of_another_node_or_cluster(make_broker):
    owner = make_broker().start()
    owner.stop()
    other_node = make_broker({"log.dirs": str(owner.data_dir), "node.id": "7"})
    other_node.config["controller.quorum.voters"] = other_node.config["controller.quorum.voters"].replace("1@", "7@")
    refused_start(other_node, CANNOT_START, str(owner.data_dir), "belongs to node 1, this is node 7")

    other_cluster = make_broker().start()
    other_cluster.stop()
    found = re.search("cluster.id=(.*)", (other_cluster.data_dir / "meta.properties").read_text())[1]
    expected = re.search("cluster.id=(.*)", (owner.data_dir / "meta.properties").read_text())[1]
    shutil.copy(owner.data_dir / "meta.properties", other_cluster.data_dir / "meta.properties")
    refused_start(other_cluster, CANNOT_START, found, expected)

    (owner.data_dir / "meta.properties").write_text("garbage")
    refused_start(owner, CANNOT_START, str(owner.data_dir), "meta.properties")


# -- a full disk


def test_a_full_disk_refuses_writes_and_recovers_by_itself(loop_disk, make_broker):
    disk = loop_disk(64)
    broker = make_broker({"log.dirs": str(disk.mount_point / "data"), "log.segment.bytes": str(1 << 20)}).start()
    create_topic(broker)
    create_topic(broker, "old")
    writer = Writer(broker)
    assert [writer.write(b"%d" % number) for number in range(10)] == list(range(10))
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g", "enable.auto.commit": False}, logger=quiet)
    consumer.commit(offsets=[TopicPartition(TOPIC, 0, 3)], asynchronous=False)

    filler = disk.fill()
    # What is left of blocks already taken may hold a few records more; then each is refused with a retriable code.
    outcomes = [writer.write(os.urandom(20_000)) for _ in range(5)]
    accepted = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert set(outcomes) - set(accepted) == {"KAFKA_STORAGE_ERROR"}, outcomes
    # Refused, and nothing worse than that: the metadata are on the same disk.
    with pytest.raises(KafkaException) as refused:
        for number in range(50):
            create_topic(broker, f"new-{number}")
    assert refused.value.args[0].code() == KafkaError.KAFKA_STORAGE_ERROR, refused.value
    assert len(read(broker, 10)) == 10
    # Space can be made with Kafka's own means.
    client = admin(broker)
    client.delete_topics(["old"])["old"].result(20)
    assert broker.process.running(), broker.log()

    # A crash on the full disk is survived too.
    broker.kill()
    broker.start()
    assert len(read(broker, 10)) == 10

    filler.unlink()
    resumed = Writer(broker)
    wait_until(lambda: isinstance(resumed.write(b"again"), int), 20, "writes are taken again")
    expected = 10 + len(accepted)
    assert resumed.outcomes[-1] == expected, "a refused record took an offset"
    assert read(broker, 1, expected) == [(expected, b"again")]
    create_topic(broker, "after")
    consumer.commit(offsets=[TopicPartition(TOPIC, 0, 5)], asynchronous=False)
    assert consumer.committed([TopicPartition(TOPIC, 0)], 20)[0].offset == 5
    consumer.close()
    assert broker.stop() == 0


# -- damaged files


def batches(log: Path) -> list[tuple[int, int, int]]:
    """Base offset, position and size of each batch."""
    content = log.read_bytes()
    found, position = [], 0
    while position + 12 <= len(content):
        offset, length = struct.unpack_from(">qi", content, position)
        found.append((offset, position, 12 + length))
        position += 12 + length
    return found


def flip(log: Path, position: int) -> None:
    with open(log, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def segments(broker) -> list[Path]:
    return sorted(broker.partition_dir(TOPIC, 0).glob("*.log"))


@pytest.fixture
def written(make_broker):
    """A broker whose topic has 60 batches of one record of 50 kB each in a few segments."""
    broker = make_broker({"log.segment.bytes": str(1 << 20), "log.initial.task.delay.ms": "1000",
                          "log.flush.offset.checkpoint.interval.ms": "1000"}).start()
    create_topic(broker)
    writer = Writer(broker)
    assert [writer.write(value(number)) for number in range(60)] == list(range(60))
    assert len(segments(broker)) >= 3
    return broker


def value(number: int) -> bytes:
    return b"%06d" % number * 8_000


def read_around(broker, damaged: int, end: int = 60) -> None:
    """Everything but the damaged record can be read; that one is refused by the client's own check or by the broker."""
    assert read(broker, damaged) == [(offset, value(offset)) for offset in range(damaged)]
    with pytest.raises(KafkaException) as refused:
        read(broker, 1, damaged)
    assert refused.value.args[0].code() in (KafkaError._BAD_MSG, KafkaError.INVALID_MSG), refused.value
    rest = range(damaged + 1, end)
    assert read(broker, len(rest), damaged + 1) == [(offset, value(offset)) for offset in rest]


def test_a_flipped_bit_in_a_running_broker_spoils_one_batch(written):
    log = segments(written)[0]
    offset, position, size = batches(log)[5]
    flip(log, position + size // 2)
    read_around(written, offset)
    assert Writer(written).write(b"more") == 60
    assert written.process.running()


@pytest.mark.parametrize("ending", ["clean", "killed"])
def test_a_flipped_bit_in_a_closed_segment_spoils_one_batch(written, ending):
    if ending == "clean":
        written.stop()
    else:
        # What lies before the recovery point is not read again at a start, let alone cut.
        checkpoint = written.data_dir / "recovery-point-offset-checkpoint"
        behind = int(segments(written)[1].stem)

        def passed() -> bool:
            points = re.findall(f"^{TOPIC} 0 (\\d+)$", checkpoint.read_text(), re.M) if checkpoint.exists() else []
            return any(int(point) >= behind for point in points)

        wait_until(passed, 20, "the recovery point has passed the first segment")
        written.kill()
    log = segments(written)[0]
    offset, position, size = batches(log)[5]
    flip(log, position + size // 2)
    written.start()
    read_around(written, offset)
    assert Writer(written).write(b"more") == 60


def test_a_flipped_bit_in_the_active_segment_after_a_crash_cuts_the_log_there(written):
    """As in Kafka: what follows a batch that does not hold cannot be told from a torn write. It is said in the log."""
    written.kill()
    log = segments(written)[-1]
    offset, position, size = batches(log)[2]
    flip(log, position + size // 2)
    written.start()
    assert "the log is cut here" in written.log()
    assert Writer(written).write(b"next") == offset
    assert read(written, offset + 1) == [*((number, value(number)) for number in range(offset)), (offset, b"next")]


def test_a_torn_end_is_cut(written):
    written.kill()
    log = segments(written)[-1]
    with open(log, "ab") as file:
        # The beginning of a batch, and zeros as a file system leaves them.
        file.write(log.read_bytes()[:100] + bytes(4096))
    written.start()
    assert Writer(written).write(value(60)) == 60
    assert read(written, 61) == [(number, value(number)) for number in range(61)]


@pytest.mark.parametrize("ending", ["clean", "killed"])
def test_missing_and_foreign_indexes_are_made_anew(written, ending):
    written.stop() if ending == "clean" else written.kill()
    directory = written.partition_dir(TOPIC, 0)
    indexes = sorted(directory.glob("*.index"))
    indexes[0].unlink()
    indexes[1].write_bytes(os.urandom(4096))
    for index in directory.glob("*.timeindex"):
        index.unlink()
    written.start()
    for start in (0, 7, 33, 59):
        assert read(written, 1, start) == [(start, value(start))]
    assert read(written, 60) == [(number, value(number)) for number in range(60)]
    assert Writer(written).write(b"more") == 60
    assert indexes[0].exists()


# -- a sync that fails


def trace(broker, *injections: str) -> Process:
    """Lets system calls of the broker's threads fail, through strace."""
    program = environment.program("strace")
    process = Process([program, "-f", "-qq", "-o", "/dev/null", *(f"--inject={rule}" for rule in injections),
                       "-e", "trace=fdatasync,fsync", "-p", str(broker.process.pid)])

    def attached() -> bool:
        if not process.running():
            pytest.skip(f"strace cannot attach here: {process.output()}")
        tasks = Path(f"/proc/{broker.process.pid}/task")
        return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks.iterdir())

    wait_until(attached, 10, "strace has attached to all threads")
    return process


def test_a_failed_sync_of_a_log_stops_the_node(make_broker):
    broker = make_broker().start()
    create_topic(broker)
    writer = Writer(broker)
    assert writer.write(b"before") == 0
    tracer = trace(broker, "fdatasync,fsync:error=EIO")
    try:
        # No acknowledgement after it, and no second try that would succeed over lost pages.
        assert not isinstance(writer.write(b"never acknowledged"), int)
        assert broker.process.wait(20) == PROTECTED, broker.log()
    finally:
        tracer.end()
    assert "fdatasync" in broker.log() and f"{TOPIC}-0" in broker.log()
    broker.start()
    # What was acknowledged is there; the other record may be, it reached the page cache.
    assert read(broker, 1) == [(0, b"before")]
    assert Writer(broker).write(b"after") in (1, 2)


def test_a_failed_sync_of_the_metadata_stops_the_node(make_broker):
    broker = make_broker().start()
    create_topic(broker)
    tracer = trace(broker, "fdatasync,fsync:error=EIO")
    try:
        with pytest.raises(KafkaException):
            create_topic(broker, "never")
        assert broker.process.wait(20) == PROTECTED, broker.log()
    finally:
        tracer.end()
    broker.start()
    client = admin(broker)
    assert TOPIC in client.list_topics(timeout=20).topics


def test_sigterm_is_a_controlled_shutdown(make_broker):
    broker = make_broker().start()
    create_topic(broker)
    assert Writer(broker).write(b"x") == 0
    broker.process.signal(signal.SIGTERM)
    assert broker.process.wait(20) == 0
    assert (broker.data_dir / ".kafka_cleanshutdown").exists()
