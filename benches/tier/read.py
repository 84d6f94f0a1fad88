"""How fast the remote tier is read by one consumer, beside cold reads of the local disk, and from the broker's memory: ratios of one
run.

    make tier-bench                                              # a directory as the tier
    make tier-bench TIER_ARGS="--url s3://bucket/prefix --config ottla.tier.s3.endpoint=http://127.0.0.1:5000 ..."

The same records lie in three topics: `local` on the disk, `tiered` in the tier but for the last segments, `small` in the tier and no
larger than the cache. Before a cold read the page cache is emptied, which takes root, and the broker started anew. The client is
librdkafka (benches/compare/load.c). Prints a table; rates are those of the consumer, requests those that the broker counts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "stock"))

from harness.broker import Broker  # noqa: E402
from harness.process import wait_until  # noqa: E402
from harness.samples import create_topic  # noqa: E402

SIZE = 1_000
SEGMENT = 64 << 20
CACHE = 128 << 20


def metrics(broker: Broker) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.health_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("ottla_tier_"))}


def load(binary: Path, *arguments: object) -> dict:
    finished = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=True)
    return json.loads(finished.stdout)


class Bench:
    def __init__(self, directory: Path, options: argparse.Namespace):
        self.binary = directory / "load"
        subprocess.run(["cc", "-O2", "-o", str(self.binary), str(REPOSITORY / "benches" / "compare" / "load.c"),
                        "-lrdkafka", "-lpthread"], check=True)
        self.records = options.megabytes * 1_000
        self.small = min(self.records, CACHE // SIZE * 3 // 4)
        self.broker = Broker("ottla", directory / "broker", {
            "remote.log.storage.system.enable": "true",
            "ottla.tier.url": options.url or f"file://{directory}/tier",
            "ottla.tier.read.cache.bytes": str(CACHE),
            "remote.log.manager.task.interval.ms": "500",
            "log.retention.check.interval.ms": "1000",
            "log.segment.delete.delay.ms": "1000",
            **dict(pair.split("=", 1) for pair in options.config),
        })

    def fill(self) -> None:
        self.broker.start()
        tiered = {"segment_bytes": SEGMENT, "remote_storage_enable": "true", "local_retention_bytes": 1}
        create_topic(self.broker, "local", segment_bytes=SEGMENT)
        create_topic(self.broker, "tiered", **tiered)
        create_topic(self.broker, "small", **{**tiered, "segment_bytes": SEGMENT // 4})
        for topic, records in (("local", self.records), ("tiered", self.records), ("small", self.small)):
            load(self.binary, "produce", self.broker.bootstrap, topic, records, SIZE, "all")
        for topic in ("tiered", "small"):
            wait_until(lambda: len(list(self.broker.partition_dir(topic, 0).glob("*.log"))) == 1, 600, f"{topic} is in the tier",
                       poll_s=0.5)

    def cold(self) -> None:
        """Nothing is in the memory of the broker or of the kernel."""
        self.broker.stop()
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        self.broker.start()

    def read(self, topic: str, records: int) -> float:
        """MB/s"""
        return load(self.binary, "consume", self.broker.bootstrap, topic, records)["mb_per_s"]

    def two_at_once(self) -> tuple[float, float]:
        """Of what two consumers got from the tier, how much the store was asked for; and requests a gigabyte of it."""
        self.cold()
        command = [self.binary, "consume", self.broker.bootstrap, "tiered", str(self.records)]
        both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [one.wait() for one in both] == [0, 0]
        counted = metrics(self.broker)
        answered = counted["ottla_tier_read_bytes_total"]
        return (counted["ottla_tier_get_bytes_total"] / answered,
                counted["ottla_tier_get_duration_seconds_count"] / (counted["ottla_tier_get_bytes_total"] / 1e9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--megabytes", type=int, default=1_500)
    parser.add_argument("--url", help="ottla.tier.url; a directory of its own without")
    parser.add_argument("--config", action="append", default=[], help="key=value of server.properties")
    parser.add_argument("--directory", type=Path, help="where data and tier lie, three times the megabytes")
    options = parser.parse_args()
    os.environ.setdefault("OTTLA_BINARY", str(REPOSITORY / "target" / "release" / "ottla"))
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="tier-bench-") as directory:
        bench = Bench(Path(directory), options)
        try:
            bench.fill()
            bench.cold()
            local = bench.read("local", bench.records)
            bench.cold()
            remote = bench.read("tiered", bench.records)
            bench.cold()
            bench.read("small", bench.small)
            before = metrics(bench.broker)["ottla_tier_get_bytes_total"]
            cached = bench.read("small", bench.small)
            asked = metrics(bench.broker)["ottla_tier_get_bytes_total"] - before
            share, requests = bench.two_at_once()
        except BaseException:
            print(bench.broker.log()[-5_000:], file=sys.stderr)
            raise
        finally:
            bench.broker.end()
    where = re.sub(r"/.*", "", (options.url or "file:").replace("//", ""))
    print(f"{options.megabytes} MB of records of {SIZE} bytes, tier at {where}")
    print("| read | MB/s | of a cold local read |\n|---|---|---|")
    for name, rate in (("cold from the local disk", local), ("cold from the tier", remote),
                       ("again, from the cache", cached)):
        print(f"| {name} | {rate:.0f} | {rate / local:.2f} |")
    print(f"second read of what fits into the cache: {asked / 1e6:.1f} MB asked of the store")
    print(f"two consumers at once: the store gave {share:.2f} of what they got, {requests:.0f} requests a GB")


if __name__ == "__main__":
    main()
