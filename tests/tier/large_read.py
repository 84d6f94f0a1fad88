"""A topic of which nearly all lies in the remote tier, read from its first offset by librdkafka and the Java consumer, byte by byte,
while producing goes on and the store is gone for some minutes.

    make tier-large                                        # 5 GB, 256 MB on the disk, 5 minutes without the store
    make tier-large TIER_ARGS="--gigabytes 1 --outage-s 30"

The store is a directory. While it is gone a file has its name, so that nothing can be read, listed or written there: older
records wait, and everything else goes on. Ends with 0 when every record came as it was sent.
"""

import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "stock"))

from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: E402
from harness import environment  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.process import wait_until  # noqa: E402
from harness.samples import create_topic  # noqa: E402

TOPIC = "large"
SIZE = 10_000
JAVA_CLIENT = environment.KAFKA_CLIENTS_VERSIONS[0]
BLOCK = random.Random(1).randbytes(1 << 20)
SEGMENT = 32 << 20


def value_of(number: int) -> bytes:
    start = number * 7919 % (len(BLOCK) - SIZE)
    return struct.pack(">q", number) + BLOCK[start : start + SIZE - 8]


class Producing:
    """At full speed at first, then slowly until it is told to stop."""

    def __init__(self, broker: Broker):
        self.count = 0
        self.failed: list[str] = []
        self.longest_s = 0.0
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 5,
                                   "queue.buffering.max.kbytes": 65_536, "message.timeout.ms": 30_000})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._slowly)

    def send(self, count: int) -> None:
        for _ in range(count):
            while True:
                try:
                    self._producer.produce(TOPIC, value_of(self.count), partition=0, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self.count += 1
            self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(120) == 0 and not self.failed, self.failed[:3]

    def _delivered(self, error, message) -> None:
        if error is not None:
            self.failed.append(str(error))
        else:
            self.longest_s = max(self.longest_s, message.latency())

    def _slowly(self) -> None:
        self.longest_s = 0.0
        while not self._stop.wait(0.1):
            self.send(20)
        self.flush()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Reading:
    """librdkafka from the first offset on, on a thread of its own."""

    def __init__(self, broker: Broker, records: int):
        self.next = 0
        self.wrong: str | None = None
        self._records = records
        self._consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "large", "auto.offset.reset": "error",
                                   "enable.auto.commit": False, "check.crcs": True})
        self._consumer.assign([TopicPartition(TOPIC, 0, 0)])
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        while self.next < self._records and self.wrong is None:
            for message in self._consumer.consume(1_000, 1):
                if message.error() is not None:
                    self.wrong = f"at {self.next}: {message.error()}"
                elif message.offset() != self.next or message.value() != value_of(self.next):
                    self.wrong = f"offset {message.offset()} where {self.next} should be, or another value"
                if self.wrong:
                    break
                self.next += 1
        self._consumer.close()


def local_bytes(broker: Broker) -> int:
    return sum(path.stat().st_size for path in broker.partition_dir(TOPIC, 0).glob("*.log"))


def java(broker: Broker, records: int, block: Path) -> subprocess.Popen:
    jars = environment.client_jars(JAVA_CLIENT)
    program = REPOSITORY / "tests" / "tier" / "LargeRead.java"
    return subprocess.Popen([environment.program("java"), "-Xmx256m", "-XX:+UseSerialGC",
                             "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{jars}/*", str(program),
                             broker.bootstrap, TOPIC, str(records), str(SIZE), str(block)], stdout=subprocess.PIPE, text=True)


def run(options: argparse.Namespace, directory: Path) -> None:
    local = options.local_megabytes << 20
    broker = Broker("ottla", directory / "broker", {
        "remote.log.storage.system.enable": "true",
        "ottla.tier.url": f"file://{directory}/tier",
        "remote.log.manager.task.interval.ms": "500",
        "log.retention.check.interval.ms": "1000",
        "log.segment.delete.delay.ms": "1000",
    })
    broker.start()
    try:
        create_topic(broker, TOPIC, remote_storage_enable="true", segment_bytes=SEGMENT, local_retention_bytes=local)
        records = int(options.gigabytes * 1e9 / SIZE)
        producing = Producing(broker)
        begin = time.monotonic()
        producing.send(records)
        producing.flush()
        print(f"{records} records of {SIZE} bytes in {time.monotonic() - begin:.0f} s", flush=True)
        wait_until(lambda: local_bytes(broker) < local + 3 * SEGMENT, 1_800, "local retention", poll_s=1)
        print(f"{local_bytes(broker) >> 20} MiB of it are on the disk", flush=True)

        producing.start()
        block = directory / "block"
        block.write_bytes(BLOCK)
        begin = time.monotonic()
        reading, reading_java = Reading(broker, records), java(broker, records, block)
        wait_until(lambda: reading.next > records // 10 or reading.wrong, 600, "a tenth is read", poll_s=0.2)
        tier, away = directory / "tier", directory / "tier.away"
        tier.rename(away)
        tier.touch()
        gone = time.monotonic()
        produced, seen = producing.count, 0
        while (left := gone + options.outage_s - time.monotonic()) > 0:
            time.sleep(min(left, 10))
            assert reading.wrong is None, reading.wrong
            assert reading_java.poll() is None, "the Java consumer ended while the store was gone"
            assert producing.count > produced and not producing.failed, f"producing stopped: {producing.failed[:3]}"
            produced, seen = producing.count, reading.next
        tier.unlink()
        away.rename(tier)
        assert seen < records, "all was read before the store came back: give more gigabytes"
        print(f"the store was gone for {time.monotonic() - gone:.0f} s, at record {seen}; "
              f"no produce took longer than {producing.longest_s * 1000:.0f} ms", flush=True)
        reading.thread.join(1_800)
        # A little more, of what came meanwhile.
        assert reading.wrong is None and reading.next >= records, reading.wrong or f"only {reading.next} records"
        print(f"librdkafka has read {records} records, byte-equal, after {time.monotonic() - begin:.0f} s", flush=True)
        output, _ = reading_java.communicate(timeout=1_800)
        assert reading_java.returncode == 0 and int(output) >= records, output
        print(f"so has the Java consumer {JAVA_CLIENT} after {time.monotonic() - begin:.0f} s", flush=True)
        producing.stop()
        last = Reading(broker, producing.count)
        last.thread.join(1_800)
        assert last.wrong is None and last.next >= producing.count, last.wrong
        print(f"and everything once more, with the {producing.count - records} records that came meanwhile", flush=True)
        assert broker.stop() == 0, broker.log()
    except BaseException:
        print(broker.log()[-5_000:], file=sys.stderr)
        raise
    finally:
        broker.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--local-megabytes", type=int, default=256)
    parser.add_argument("--outage-s", type=float, default=300)
    parser.add_argument("--directory", type=Path, help="where data and tier lie, twice the gigabytes")
    options = parser.parse_args()
    os.environ.setdefault("OTTLA_BINARY", str(REPOSITORY / "target" / "release" / "ottla"))
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="tier-large-") as directory:
        run(options, Path(directory))


if __name__ == "__main__":
    main()
