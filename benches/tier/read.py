"""How fast the remote tier is read by one consumer, beside cold reads of the local disk, and from the broker's memory and its disk cache:
ratios of one run.

    make tier-bench                                              # a directory as the tier
    make tier-bench TIER_ARGS=--s3                               # the same directory as a bucket, by s3_files.py
    make tier-bench TIER_ARGS=--moto                             # a bucket of the tests' S3 server
    make tier-bench TIER_ARGS="--url s3://bucket/prefix --config ottla.tier.s3.endpoint=http://127.0.0.1:5000 ..."

The same records lie in three topics: `local` on the disk, `tiered` in the tier but for the last segments, `small` in the tier and no
larger than the cache. Before a cold read the page cache is emptied, which takes root, and the broker started anew. The client is
librdkafka (benches/compare/load.c). Prints a table; rates are those of the consumer, requests those that the broker counts.

With --s3 and --moto the same objects are also read without a broker, two requests at a time, to tell what the server gives: it
shares the machine with broker and client.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "stock"))

from harness.aws import Aws  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.process import wait_until  # noqa: E402
from harness.samples import create_topic  # noqa: E402

SIZE = 1_000
SEGMENT = 64 << 20
CACHE = 128 << 20
PIECE = 8 << 20
BUCKET = "bench"


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
        self.directory = directory
        self.broker = Broker("ottla", directory / "broker", {
            "remote.log.storage.system.enable": "true",
            "ottla.tier.url": options.url or f"file://{directory}/tier",
            "ottla.tier.read.cache.bytes": str(CACHE),
            # All of it fits: what was read longest ago would be given up first, and a second reader begins with that.
            "ottla.tier.read.cache.disk.bytes": str(options.megabytes * 1_100_000),
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

    def serve(self) -> tuple[subprocess.Popen, str]:
        """The directory of the tier is a bucket from now on."""
        command = [sys.executable, HERE / "s3_files.py", self.directory / "tier"]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        url = server.stdout.readline().decode().strip()
        self.broker.config.update({"ottla.tier.url": f"s3://{BUCKET}", "ottla.tier.s3.endpoint": url})
        return server, url

    def cold(self) -> None:
        """Nothing is in the memory of the broker or of the kernel."""
        self.broker.stop()
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        self.broker.start()

    def read(self, topic: str, records: int) -> float:
        """MB/s"""
        return load(self.binary, "consume", self.broker.bootstrap, topic, records)["mb_per_s"]

    def read_later(self) -> tuple[float, float]:
        """By a second consumer, when the first one has read all: MB/s, and how much of it the store was not asked for."""
        before = metrics(self.broker)
        rate = self.read("tiered", self.records)
        after = metrics(self.broker)
        asked, answered = (after[name] - before[name] for name in ("ottla_tier_get_bytes_total", "ottla_tier_read_bytes_total"))
        return rate, 1 - asked / answered

    def two_at_once(self) -> tuple[float, float]:
        """Of what the second of two consumers got, how much the store was not asked for once more; requests a gigabyte."""
        self.cold()
        command = [self.binary, "consume", self.broker.bootstrap, "tiered", str(self.records)]
        both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [one.wait() for one in both] == [0, 0]
        counted = metrics(self.broker)
        one, asked = counted["ottla_tier_read_bytes_total"] / 2, counted["ottla_tier_get_bytes_total"]
        return 1 - (asked - one) / one, counted["ottla_tier_get_duration_seconds_count"] / (asked / 1e9)


def rate_of_server(url: str) -> float:
    """MB/s of the segments in the bucket, in the pieces that a broker asks for."""
    host = url.removeprefix("http://")
    with urllib.request.urlopen(f"{url}/{BUCKET}?list-type=2") as answer:
        listed = answer.read().decode()
    objects = re.findall(r"<Key>([^<]*\.seg)</Key>.*?<Size>(\d+)</Size>", listed, re.DOTALL)
    pieces = [(key, at) for key, size in objects for at in range(0, int(size), PIECE)]

    def read(pieces: list[tuple[str, int]]) -> int:
        connection, total = http.client.HTTPConnection(host), 0
        for key, at in pieces:
            connection.request("GET", f"/{BUCKET}/{key}", headers={"Range": f"bytes={at}-{at + PIECE - 1}"})
            total += len(connection.getresponse().read())
        return total

    Path("/proc/sys/vm/drop_caches").write_text("3")
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        total = sum(threads.map(read, (pieces[::2], pieces[1::2])))
    return total / (time.monotonic() - begun) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--megabytes", type=int, default=1_500)
    parser.add_argument("--url", help="ottla.tier.url; a directory of its own without")
    parser.add_argument("--config", action="append", default=[], help="key=value of server.properties")
    parser.add_argument("--directory", type=Path, help="where data and tier lie, three times the megabytes")
    parser.add_argument("--s3", action="store_true", help="read the directory as a bucket")
    parser.add_argument("--moto", action="store_true", help="a bucket of tests/support/aws.py")
    options = parser.parse_args()
    aws, server, server_url = None, None, None
    if options.s3 or options.moto:
        os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "any"
    if options.moto:
        aws = Aws(BUCKET)
        server_url = aws.url
        options.url = f"s3://{BUCKET}/here"
        options.config.append(f"ottla.tier.s3.endpoint={aws.url}")
    os.environ.setdefault("OTTLA_BINARY", str(REPOSITORY / "target" / "release" / "ottla"))
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="tier-bench-") as directory:
        bench = Bench(Path(directory), options)
        try:
            bench.fill()
            if options.s3:
                server, server_url = bench.serve()
            bench.cold()
            local = bench.read("local", bench.records)
            bench.cold()
            remote = bench.read("tiered", bench.records)
            later, share_later = bench.read_later()
            bench.cold()
            bench.read("small", bench.small)
            before = metrics(bench.broker)["ottla_tier_get_bytes_total"]
            cached = bench.read("small", bench.small)
            asked = metrics(bench.broker)["ottla_tier_get_bytes_total"] - before
            share, requests = bench.two_at_once()
            of_server = rate_of_server(server_url) if server_url else None
        except BaseException:
            print(bench.broker.log()[-5_000:], file=sys.stderr)
            raise
        finally:
            bench.broker.end()
            if aws:
                aws.end()
            if server:
                server.communicate()
    where = re.sub(r"/.*", "", bench.broker.config["ottla.tier.url"].replace("//", ""))
    print(f"{options.megabytes} MB of records of {SIZE} bytes, tier at {where}")
    print("| read | MB/s | of a cold local read |\n|---|---|---|")
    for name, rate in (("cold from the local disk", local), ("cold from the tier", remote),
                       ("later, from the disk cache", later), ("again, from memory", cached)):
        print(f"| {name} | {rate:.0f} | {rate / local:.2f} |")
    print(f"second read of what fits into the cache: {asked / 1e6:.1f} MB asked of the store")
    print(f"a second consumer later: {share_later:.0%} of it was not asked for again")
    print(f"two consumers at once: {share:.0%} of what the second got was not asked for again; {requests:.0f} requests a GB")
    if of_server:
        print(f"the S3 server without a broker: {of_server:.0f} MB/s; by one consumer {remote / of_server:.2f} of it")


if __name__ == "__main__":
    main()
