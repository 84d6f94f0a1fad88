"""Producers that remember what was acknowledged, and the check of every one of those records.

A record's value is its number, repeated: what comes back can be checked without keeping what was sent. Numbers count up per
producer and go round the partitions.
"""

import logging
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from harness import environment
from harness.process import Process, wait_until

# librdkafka tells of every lost connection.
quiet = logging.getLogger("librdkafka")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


def value_of(number: int) -> bytes:
    return struct.pack(">q", number) * (1 + number * 7919 % 100)


@dataclass
class Acknowledged:
    """What one producer was told."""

    idempotent: bool
    # Number to partition and offset; the offset is -1 where the producer was not told, as of a duplicate.
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    # When acknowledgements came: monotonic seconds and partition.
    times: list[tuple[float, int]] = field(default_factory=list)
    # What the client reports as failed.
    errors: list[str] = field(default_factory=list)


class LostPromise(AssertionError):
    """A promise was broken, as opposed to a test that did not work."""


def check_records(told: Acknowledged, records: dict[int, list[tuple[int, bytes]]],
                  starts: dict[int, int] | None = None) -> int:
    """Every acknowledged record is there, unchanged, at its offset; of an idempotent producer once and in order. How many.
    `starts`: where logs begin of which retention has deleted the head."""
    numbers: dict[int, list[int]] = {}
    starts = {partition: (starts or {}).get(partition, 0) for partition in records}
    for partition, rows in records.items():
        for at, (offset, _) in enumerate(rows, starts[partition]):
            if offset != at:
                raise LostPromise(f"partition {partition}: offset {offset} where {at} should be")
        numbers[partition] = [struct.unpack(">q", value[:8])[0] for _, value in rows]
        for (offset, value), number in zip(rows, numbers[partition]):
            if value != value_of(number):
                raise LostPromise(f"partition {partition}: the record at offset {offset} has changed")
        if told.idempotent:
            for one, next_one in zip(numbers[partition], numbers[partition][1:]):
                if next_one <= one:
                    raise LostPromise(f"partition {partition}: record {next_one} after {one}: a duplicate or out of order")
    present = {partition: set(found) for partition, found in numbers.items()}
    checked = 0
    for number, (partition, offset) in told.places.items():
        at = offset - starts[partition]
        if 0 <= offset < starts[partition]:
            continue
        checked += 1
        if offset < 0:
            if number not in present[partition]:
                raise LostPromise(f"partition {partition}: acknowledged record {number} is lost")
        elif at >= len(numbers[partition]):
            raise LostPromise(f"partition {partition}: acknowledged record {number} at offset {offset} is lost, "
                              f"the log ends at {starts[partition] + len(numbers[partition])}")
        elif numbers[partition][at] != number:
            raise LostPromise(f"partition {partition}: record {numbers[partition][at]} at offset {offset}, where {number} was "
                              "acknowledged")
    return checked


def produce(bootstrap: str, topic: str, records: int, first: int = 0, partition: int = 0, values: list[bytes] | None = None,
            **config) -> None:
    """So many records, all acknowledged. `values`: theirs, or the usual ones."""
    errors = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", **config}, logger=quiet)
    for number in range(first, first + records):
        value = values[number - first] if values else value_of(number)
        producer.produce(topic, value, partition=partition,
                         on_delivery=lambda error, _: errors.append(error) if error else None)
    assert producer.flush(30) == 0 and not errors, errors[:3]


def read_all(bootstrap: str, topic: str, timeout_s: float = 60, **config) -> dict[int, list[tuple[int, bytes]]]:
    """All records by partition, in the order in which a consumer sees them."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "enable.auto.commit": False,
                         "enable.partition.eof": True, "check.crcs": True, **config}, logger=quiet)
    try:
        partitions = sorted(consumer.list_topics(topic, 30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        found: dict[int, list[tuple[int, bytes]]] = {partition: [] for partition in partitions}
        ended: set[int] = set()
        deadline = time.monotonic() + timeout_s
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, f"{topic} cannot be read to its end in {timeout_s} s"
            for message in consumer.consume(1_000, 0.5):
                if message.error() is None:
                    found[message.partition()].append((message.offset(), message.value()))
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                elif not message.error().retriable() and message.error().code() != KafkaError._ALL_BROKERS_DOWN:
                    raise AssertionError(f"{topic}: {message.error()}")
        return found
    finally:
        consumer.unassign()
        consumer.close()


RECORDS_ENOUGH = 100


class Load:
    """What producers of all kinds have in common."""

    topic: str
    told: Acknowledged

    def count(self) -> int:
        return len(self.told.places)

    def wait_for_more(self, records: int = 1, timeout_s: float = 60) -> None:
        wanted = self.count() + records
        wait_until(lambda: self.count() >= wanted or self._ended(), timeout_s, f"{records} more records are acknowledged")
        assert self.count() >= wanted, f"the producer ended: {self.told.errors[:3]}"

    def finish(self) -> Acknowledged:
        """Ends a load of which the client must have reported nothing, once it is long enough for its check to prove something."""
        wait_until(lambda: self.count() > RECORDS_ENOUGH or self._ended(), 60, f"{RECORDS_ENOUGH} records are acknowledged")
        told = self.stop()
        assert not told.errors, f"{self.topic}: {len(told.errors)} errors reported by the client, first {told.errors[:3]}"
        return told

    def wait_for_all_partitions(self, partitions: int, timeout_s: float = 60) -> None:
        """Until each partition has acknowledged something that was not yet acknowledged when this was called."""
        seen = len(self.told.times)
        wait_until(lambda: len({partition for _, partition in self.told.times[seen:]}) == partitions, timeout_s,
                   "every partition acknowledges")

    def longest_pause(self, since: float, partitions: set[int]) -> float:
        """The longest time since that moment in which one of these partitions acknowledged nothing."""
        longest = 0.0
        for wanted in partitions:
            times = [at for at, partition in self.told.times if partition == wanted]
            for one, next_one in zip([since, *times], times):
                if next_one > since:
                    longest = max(longest, next_one - max(one, since))
            assert times and times[-1] > since, f"partition {wanted} acknowledged nothing"
        return longest

    def check(self, bootstrap: str) -> int:
        """Every acknowledged record; how many there were."""
        return check_records(self.told, read_all(bootstrap, self.topic))

    def _ended(self) -> bool:
        return False


class LibrdkafkaLoad(Load):
    """librdkafka with its defaults but for what is named here, on a thread of its own."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, idempotent: bool = True, rate: float = 1_000, **config):
        self.topic = topic
        self.told = Acknowledged(idempotent)
        self._partitions = partitions
        self._rate = rate
        self._stop = threading.Event()
        self._producer = Producer({
            "bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": idempotent,
            # A few milliseconds as by default; the queue bounds how much is unacknowledged while a leader is away.
            "queue.buffering.max.messages": 20_000,
            **config,
        }, logger=quiet)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number, begin = 0, time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - begin) * self._rate)
            while number < due:
                try:
                    self._producer.produce(self.topic, value_of(number), partition=number % self._partitions,
                                           on_delivery=self._delivered)
                except BufferError:
                    # What is due grows meanwhile; it must not come in one burst later.
                    begin = time.monotonic() - number / self._rate
                    break
                number += 1
            self._producer.poll(0.002)

    def _delivered(self, error, message) -> None:
        if error is not None:
            self.told.errors.append(f"{error.name()}: {error.str()}")
            return
        # A duplicate is acknowledged without its offset.
        offset = message.offset() if message.offset() is not None else -1
        self.told.places[struct.unpack(">q", message.value()[:8])[0]] = (message.partition(), max(offset, -1))
        self.told.times.append((time.monotonic(), message.partition()))

    def stop(self, timeout_s: float = 60) -> Acknowledged:
        """Ends the load when all that it sent is acknowledged or has failed."""
        self._stop.set()
        self._thread.join()
        left = self._producer.flush(timeout_s)
        assert left == 0, f"{left} records are neither acknowledged nor refused after {timeout_s} s"
        return self.told

    def abandon(self) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.purge()
        self._producer.flush(1)

    def _ended(self) -> bool:
        return not self._thread.is_alive()


class JavaLoad(Load):
    """Kafka's own producer with its defaults, in a process of its own."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, idempotent: bool = True, rate: float = 1_000, **config):
        self.topic = topic
        self.told = Acknowledged(idempotent)
        jars = environment.client_jars(environment.KAFKA_CLIENTS_VERSIONS[-1])
        program = Path(__file__).with_name("java") / "Load.java"
        properties = [f"{key.replace('_', '.')}={value}" for key, value in config.items()]
        self._process = Process([environment.program("java"), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                                 "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{jars}/*", str(program), bootstrap,
                                 topic, str(partitions), str(idempotent).lower(), str(int(rate)), *properties])
        self._read = 0
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._done.wait(0.005):
            self._take()

    def _take(self) -> None:
        with self._lock:
            lines = self._process.lines
            while self._read < len(lines):
                kind, _, rest = lines[self._read].partition(" ")
                self._read += 1
                if kind == "ack":
                    number, partition, offset = map(int, rest.split())
                    self.told.places[number] = (partition, offset)
                    self.told.times.append((time.monotonic(), partition))
                elif kind == "error":
                    self.told.errors.append(rest)

    def stop(self, timeout_s: float = 60) -> Acknowledged:
        self._process.close_input()
        code = self._process.wait(timeout_s)
        self._done.set()
        self._thread.join()
        self._take()
        assert code == 0, self._process.output()
        return self.told

    def abandon(self) -> None:
        self._process.kill()
        self._done.set()
        self._thread.join()

    def _ended(self) -> bool:
        return not self._process.running()
