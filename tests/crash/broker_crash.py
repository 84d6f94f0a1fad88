"""Crashes a broker under load and checks every record that it acknowledged with acks=all.

    make crash                    50 kills (CRASHES=n for another number)
    make crash-power              power cuts instead: what was not synced is gone (needs root and a loop device)

librdkafka producers, one idempotent and one not, write to topics with small segments and every codec while the broker is
killed at random moments, in its start-up and recovery too. After the last crash, and every tenth before, all partitions are
read from the beginning: each acknowledged record must be at its offset with its value; the idempotent producer's records
must be there once each and in the order in which they were sent; offsets must be gap-free where nothing may be missing;
committed group offsets must not have gone back. Exits non-zero at the first lost promise and keeps the files then.

Before the power cuts the same is done to a broker that may acknowledge from the page cache (`ottla.durability=memory`),
which has to be caught: a check that cannot fail proves nothing.
"""

import argparse
import ctypes
import hashlib
import logging
import random
import shutil
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "stock"))

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition  # noqa: E402
from confluent_kafka.admin import AdminClient, NewTopic  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.process import wait_until  # noqa: E402
from harness.loop_disk import LoopDisk  # noqa: E402

PARTITIONS = 6
# Small, so that crashes fall into rolls and recovery walks over many segments.
SEGMENT_BYTES = 1 << 20
CODECS = ["none", "lz4", "zstd", "gzip", "snappy"]
GROUP = "crash"
COORDINATOR_ON_ITS_WAY = (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE,
                          KafkaError.NOT_COORDINATOR, KafkaError._WAIT_COORD)
# What each producer may send between two crashes: all of it is read back many times.
RECORDS_PER_CRASH = 10_000
# A broker that does not sync loses records at each cut under load; one cut may fall between two writes.
CUTS_TO_BE_CAUGHT = 5

# librdkafka tells of every lost connection.
quiet = logging.getLogger("librdkafka")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


class LostPromise(AssertionError):
    """The broker broke its word, as opposed to a test that did not work."""


def promised(kept: bool, otherwise: str) -> None:
    if not kept:
        raise LostPromise(otherwise)


class Load:
    """One producer on a thread; remembers what was acknowledged, and where."""

    def __init__(self, bootstrap: str, topic: str, idempotent: bool, seed: int):
        self.topic = topic
        self.idempotent = idempotent
        self.random = random.Random(seed)
        self.acknowledged: dict[tuple[int, int], bytes] = {}
        self.sent = 0
        self.allowed = RECORDS_PER_CRASH
        self.refused: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._producer = Producer({
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": idempotent,
            "compression.type": self.random.choice(CODECS),
            "linger.ms": 2,
            "message.timeout.ms": 120_000,
            "reconnect.backoff.ms": 10,
            "reconnect.backoff.max.ms": 100,
            "queue.buffering.max.messages": 2_000,
        }, logger=quiet)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.sent >= self.allowed:
                self._producer.poll(0.02)
                continue
            number = self.sent
            body = self.random.randbytes(self.random.choice([10, 100, 1_000, 5_000]))
            value = struct.pack(">q", number) + body
            try:
                self._producer.produce(self.topic, value, partition=number % PARTITIONS, on_delivery=self._delivered)
                self.sent += 1
            except BufferError:
                self._producer.poll(0.01)
            self._producer.poll(0)

    def _delivered(self, error, message) -> None:
        if error is not None:
            self.refused.append(str(error))
            return
        with self._lock:
            self.acknowledged[message.partition(), message.offset()] = hashlib.blake2b(
                message.value(), digest_size=8).digest()

    def count(self) -> int:
        return len(self.acknowledged)

    def known(self) -> dict[tuple[int, int], bytes]:
        with self._lock:
            return dict(self.acknowledged)

    def abandon(self) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.purge()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        left = self._producer.flush(60)
        assert left == 0, f"{left} records are neither acknowledged nor refused a minute after the last start"


def read_all(bootstrap: str, topic: str) -> dict[int, list[tuple[int, bytes]]]:
    """All records by partition, in the order in which a consumer sees them."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "enable.auto.commit": False,
                         "enable.partition.eof": True, "check.crcs": True}, logger=quiet)
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    found: dict[int, list[tuple[int, bytes]]] = {partition: [] for partition in range(PARTITIONS)}
    ended: set[int] = set()
    deadline = time.monotonic() + 120
    while len(ended) < PARTITIONS:
        assert time.monotonic() < deadline, f"{topic} cannot be read to its end in two minutes"
        for message in consumer.consume(1_000, 1):
            if message.error() is None:
                found[message.partition()].append((message.offset(), message.value()))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                raise AssertionError(f"{topic}: {message.error()}")
    consumer.close()
    return found


def check(bootstrap: str, loads: list[Load], committed: dict[int, int]) -> int:
    checked = 0
    for load in loads:
        # What was acknowledged before the reading began must be found by it.
        known = load.known()
        records = read_all(bootstrap, load.topic)
        for partition, rows in records.items():
            offsets = [offset for offset, _ in rows]
            promised(offsets == list(range(len(offsets))), f"{load.topic}-{partition}: offsets with gaps or out of order")
            numbers = [struct.unpack(">q", value[:8])[0] for _, value in rows]
            if load.idempotent:
                promised(numbers == sorted(set(numbers)), f"{load.topic}-{partition}: duplicates or records out of order")
        for (partition, offset), digest in known.items():
            rows = records[partition]
            promised(offset < len(rows), f"{load.topic}-{partition}: acknowledged offset {offset} is lost")
            found = hashlib.blake2b(rows[offset][1], digest_size=8).digest()
            promised(found == digest, f"{load.topic}-{partition}: the record at offset {offset} has changed")
            checked += 1
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP}, logger=quiet)
    partitions = [TopicPartition(loads[0].topic, partition) for partition in committed]
    for found in consumer.committed(partitions, timeout=30):
        promised(found.offset >= committed[found.partition], (
            f"the committed offset of partition {found.partition} went back from {committed[found.partition]} to {found.offset}"))
    consumer.close()
    return checked


def commit(bootstrap: str, topic: str, committed: dict[int, int]) -> None:
    """Commits ever larger offsets of a group; remembers what was acknowledged."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False}, logger=quiet)
    wanted = [TopicPartition(topic, partition, committed.get(partition, 0) + 1) for partition in range(PARTITIONS)]

    def try_commit() -> list[TopicPartition] | None:
        try:
            return consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            # The coordinator reads its log after a start; librdkafka leaves it to its user to try again.
            if not error.args[0].retriable() and error.args[0].code() not in COORDINATOR_ON_ITS_WAY:
                raise
            return None

    for done in wait_until(try_commit, 30, "offsets can be committed"):
        if done.error is None:
            committed[done.partition] = done.offset
    consumer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crashes", type=int, default=50)
    parser.add_argument("--power", action="store_true", help="cut the power of the disk instead of only killing")
    parser.add_argument("--may-skip", action="store_true", help="succeed, saying so, where power cuts cannot be made")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.power and (reason := LoopDisk.missing()):
        print(f"power cuts skipped: {reason}" if arguments.may_skip else f"power cuts cannot be made here: {reason}")
        sys.exit(0 if arguments.may_skip else 1)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    kind = "power cuts" if arguments.power else "kills"
    print(f"{arguments.crashes} {kind}, --seed {seed}", flush=True)

    if arguments.power:
        prove_that_losses_are_seen(chance)
    checked = run(arguments.crashes, chance, arguments.power, {})
    print(f"{arguments.crashes} {kind}: all {checked} records acknowledged with acks=all are there, unchanged; "
          f"committed offsets as acknowledged")


def prove_that_losses_are_seen(chance: random.Random) -> None:
    try:
        run(CUTS_TO_BE_CAUGHT, chance, True, {"ottla.durability": "memory"}, check_every=1)
    except LostPromise as loss:
        print(f"a broker that may acknowledge from the page cache is caught: {loss}", flush=True)
        return
    sys.exit(f"a broker without syncs lost nothing in {CUTS_TO_BE_CAUGHT} power cuts: this test cannot see a loss here")


def run(crashes: int, chance: random.Random, power: bool, config: dict[str, str], check_every: int = 10) -> int:
    """How many acknowledged records were checked. A LostPromise otherwise."""
    is_expected_to_lose = bool(config)
    directory = Path(tempfile.mkdtemp(prefix="ottla-crash-"))
    disk = LoopDisk(directory, 4096) if power else None
    broker = Broker("ottla", directory, {
        "log.segment.bytes": str(SEGMENT_BYTES), "log.dirs": str((disk.mount_point if disk else directory) / "data"), **config})
    loads: list[Load] = []
    committed: dict[int, int] = {}
    try:
        broker.start()
        admin = AdminClient({"bootstrap.servers": broker.bootstrap}, logger=quiet)
        topics = ["idempotent", "plain"]
        for future in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in topics]).values():
            future.result(30)
        loads = [Load(broker.bootstrap, name, name == "idempotent", chance.randrange(1 << 32)) for name in topics]
        for crash in range(1, crashes + 1):
            before = [load.count() for load in loads]
            for load in loads:
                load.allowed = load.sent + RECORDS_PER_CRASH
            wait_until(lambda: all(load.count() > count for load, count in zip(loads, before)), 60,
                       "both producers get acknowledgements")
            commit(broker.bootstrap, topics[0], committed)
            time.sleep(chance.uniform(0, 0.5))
            crash_once(broker, disk)
            # Every third crash is followed by one in the start-up, while the logs recover.
            if crash % 3 == 0:
                broker.spawn()
                time.sleep(chance.uniform(0, 0.3))
                crash_once(broker, disk)
            broker.start()
            if crash % check_every == 0 and crash != crashes:
                checked = check(broker.bootstrap, loads, committed)
                print(f"crash {crash}: {checked} acknowledged records are there", flush=True)
        for load in loads:
            load.stop()
            assert not load.refused, f"{load.topic}: {len(load.refused)} records refused, the first: {load.refused[0]}"
        checked = check(broker.bootstrap, loads, committed)
        assert checked > crashes * 10, f"only {checked} records were acknowledged: the test proves little"
        code = broker.stop()
        assert code == 0, f"the controlled shutdown ended with {code}"
    except BaseException as error:
        for load in loads:
            load.abandon()
        broker.kill()
        if not (is_expected_to_lose and isinstance(error, LostPromise)):
            print(broker.log()[-5000:], file=sys.stderr)
            print(f"the files are kept in {directory}", file=sys.stderr)
            raise
        remove(directory, disk)
        raise
    broker.end()
    remove(directory, disk)
    return checked


def remove(directory: Path, disk: LoopDisk | None) -> None:
    if disk:
        disk.destroy()
    shutil.rmtree(directory, ignore_errors=True)


def crash_once(broker: Broker, disk: LoopDisk | None) -> None:
    if disk:
        disk.cut_power()
    broker.kill()
    if disk:
        disk.unmount()
        disk.mount()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG: ends with the make that started it
    main()
