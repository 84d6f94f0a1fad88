"""Topics as tables at a steady rate: when rows are visible in SQL, what producers notice of it, and what the store is asked for.

    make lake-bench                                     # everything, about 20 minutes
    make lake-bench LAKE_ARGS="visible --lag-s 5"       # a part of it

The rows of a stock-market CSV (STOCK_CSV, or those of clients/examples) are sent as JSON, as clients/examples/producer.py does, by
librdkafka (benches/compare/load.c) with acks=all. Broker and clients share the machine.

visible   From a record's acknowledgement to the commit that has it: one record in a thousand. A commit counts from when the
          version hint names it, which is where DuckDB begins (looked at every 20 ms); DuckDB counts the rows at the end.
latency   Time to the acknowledgement, in rounds that alternate between a topic without a table and one with; a round ends when
          its rows are in the table. The ratio is that of the medians of the rounds.
catch-up  A topic that had records becomes a table: bytes of JSON for a second of the broker's CPU time, which is reading,
          converting, storing and committing, and for a second that passes. One thread converts at a time.
requests  A topic that is tiered and a table, all other keys by default, in a bucket of the tests' S3 server, which counts. Files are
          joined a minute after the first commit and every ten minutes: `--seconds 720` has both kinds of requests. The Parquet of
          rows that come again and again is smaller than that of a real topic: `--varied 130`.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(REPOSITORY / "tests" / "stock"), str(REPOSITORY / "clients" / "examples")]

import producer  # noqa: E402
import stock_tables  # noqa: E402
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # noqa: E402
from harness.aws import Aws  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.process import wait_until  # noqa: E402
from harness.samples import create_topic  # noqa: E402

BUCKET = "bench"
OFFSETS_PROPERTY = "ottla.offsets."
PARTITIONS = 6


class Bench:
    def __init__(self, directory: Path, options: argparse.Namespace):
        self.directory = directory
        self.options = options
        self.binary = directory / "load"
        subprocess.run(["cc", "-O2", "-o", str(self.binary), str(REPOSITORY / "benches" / "compare" / "load.c"),
                        "-lrdkafka", "-lpthread"], check=True)
        self.rows = directory / "rows.json"
        with open(self.rows, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(options.csv, options.varied))

    def broker(self, config: dict[str, str]) -> Broker:
        return Broker("ottla", self.directory / "broker", {**config, **dict(pair.split("=", 1) for pair in self.options.config)})

    def send(self, broker: Broker, topic: str, seconds: float) -> tuple[dict, list[tuple[int, int, float]]]:
        """What the load says of itself, and samples of (partition, offset, time of the acknowledgement)."""
        acks = self.directory / "acks"
        command = [self.binary, "rows", broker.bootstrap, topic, self.rows, self.options.mb_per_s, seconds, acks]
        ran = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"the load failed: {ran.stdout}{ran.stderr}")
        sent = json.loads(ran.stdout)
        if sent["mb_per_s"] < 0.98 * self.options.mb_per_s:
            sys.exit(f"only {sent['mb_per_s']} MB/s of {self.options.mb_per_s}: the rate is not kept here")
        samples = [(int(partition), int(offset), float(at)) for partition, offset, at in map(str.split, open(acks))]
        return sent, samples


def rows(path: Path, times: int) -> Iterator[dict]:
    """Those of the file, and then again with other numbers."""
    factors = random.Random(1)
    for time_over in range(times):
        for row in producer.rows(path):
            factor = 1 + 0.3 * factors.random() if time_over else 1
            yield {name: round(value * factor, 6) if isinstance(value, float) else value for name, value in row.items()}


def metrics(broker: Broker) -> dict[str, float]:
    """Sums over labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.health_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, float] = {}
    for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("ottla_")):
        name = name.split("{")[0]
        found[name] = found.get(name, 0) + float(value)
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_in_table(broker: Broker, rows: int, timeout_s: float = 300) -> None:
    wait_until(lambda: metrics(broker).get("ottla_lake_rows_total", 0) >= rows
               and metrics(broker)["ottla_lake_lag_records"] == 0, timeout_s, f"{rows} rows are in the table")


class Watch(threading.Thread):
    """When which offsets were in the table for readers."""

    def __init__(self, table: Path):
        super().__init__(daemon=True)
        self.metadata = table / "metadata"
        self.seen: list[tuple[float, dict[int, int]]] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        known = None
        while not self.stopping.wait(0.02):
            try:
                hint = (self.metadata / "version-hint.text").read_text()
                at = time.time()
                if hint == known:
                    continue
                properties = json.loads((self.metadata / f"v{hint}.metadata.json").read_text())["properties"]
            except FileNotFoundError:
                continue
            known = hint
            offsets = next((value for key, value in properties.items() if key.startswith(OFFSETS_PROPERTY)), "{}")
            self.seen.append((at, {int(partition): next_offset for partition, next_offset in json.loads(offsets).items()}))

    def delays(self, samples: list[tuple[int, int, float]]) -> list[float]:
        """Sorted."""
        def visible_at(partition: int, offset: int) -> float:
            return next(at for at, offsets in self.seen if offsets.get(partition, 0) > offset)
        return sorted(visible_at(partition, offset) - at for partition, offset, at in samples)


def quantile(values: list[float], q: float) -> float:
    return values[int((len(values) - 1) * q)]


def visible(bench: Bench) -> None:
    lags = [bench.options.lag_s] if bench.options.lag_s else [60, 5]
    print("| lag | records | p50 | p99 | longest | target |\n|---|---|---|---|---|---|", flush=True)
    for lag in lags:
        tables = bench.directory / f"tables-{lag}"
        broker = bench.broker({"ottla.tier.url": f"file://{tables}"}).start()
        try:
            create_topic(broker, "rows", PARTITIONS, ottla_lake_enable="true", ottla_lake_lag_ms=lag * 1_000)
            table = tables / "lake" / "ottla" / "rows"
            watch = Watch(table)
            watch.start()
            # Whole turns of the committer, so that no time within one is sampled more often than others.
            sent, samples = bench.send(broker, "rows", max(lag, round((bench.options.seconds or 240) / lag) * lag))
            wait_until_in_table(broker, sent["records"])
            watch.stopping.set()
            watch.join()
            counted = stock_tables.InDirectory(str(tables), "rows").count()
            if counted != sent["records"]:
                sys.exit(f"DuckDB counts {counted} rows of {sent['records']}")
        finally:
            broker.end()
        delays = watch.delays(samples)
        target = "p50 35 s, p99 70 s" if lag == 60 else "10 s" if lag == 5 else ""
        print(f"| {lag} s | {sent['records']:,} | {quantile(delays, 0.5):.1f} s | {quantile(delays, 0.99):.1f} s | {delays[-1]:.1f} s "
              f"| {target} |", flush=True)


def latency(bench: Bench) -> None:
    broker = bench.broker({"ottla.tier.url": f"file://{bench.directory}/tables"}).start()
    try:
        lag = bench.options.lag_s or 60
        create_topic(broker, "plain", PARTITIONS)
        create_topic(broker, "rows", PARTITIONS, ottla_lake_enable="true", ottla_lake_lag_ms=lag * 1_000)
        found: dict[str, list[dict]] = {"plain": [], "rows": []}
        rows = 0
        print("| round | topic | p50 | p99 | p99.9 |\n|---|---|---|---|---|", flush=True)
        for number in range(bench.options.rounds):
            # Neither is always the first.
            for topic in ("plain", "rows") if number % 2 else ("rows", "plain"):
                sent, _ = bench.send(broker, topic, bench.options.seconds or lag * 1.2)
                found[topic].append(sent)
                print(f"| {number} | {topic} | {sent['p50_ms']:.2f} ms | {sent['p99_ms']:.2f} ms | {sent['p999_ms']:.2f} ms |", flush=True)
                if topic == "rows":
                    rows += sent["records"]
                    wait_until_in_table(broker, rows)
    finally:
        broker.end()
    medians = {topic: {q: statistics.median(one[q] for one in sent) for q in ("p50_ms", "p99_ms", "p999_ms")}
               for topic, sent in found.items()}
    print(f"\nwith a table (lag {lag} s) to without, medians of {bench.options.rounds} rounds: "
          + ", ".join(f"{q.removesuffix('_ms')} {medians['rows'][q] / medians['plain'][q]:.2f}" for q in medians["rows"])
          + "; target: p99 1.10", flush=True)


def catch_up(bench: Bench) -> None:
    tables = bench.directory / "tables"
    broker = bench.broker({"ottla.tier.url": f"file://{tables}"}).start()
    try:
        create_topic(broker, "rows", PARTITIONS)
        sent, _ = bench.send(broker, "rows", bench.options.seconds or 120)
        cpu_before, begun = cpu_s(broker.process.pid), time.monotonic()
        wanted = {"ottla.lake.lag.ms": "5000", "ottla.lake.enable": "true"}
        resource = ConfigResource(ResourceType.TOPIC, "rows", incremental_configs=[
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in wanted.items()])
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        admin.incremental_alter_configs([resource])[resource].result(30)
        wait_until_in_table(broker, sent["records"], 600)
        took, cpu = time.monotonic() - begun, cpu_s(broker.process.pid) - cpu_before
        counted = stock_tables.InDirectory(str(tables), "rows").count()
        if counted != sent["records"]:
            sys.exit(f"DuckDB counts {counted} rows of {sent['records']}")
    finally:
        broker.end()
    megabytes = sent["bytes"] / 1e6
    print(f"{megabytes:,.0f} MB of JSON: {megabytes / cpu:.0f} MB for a second of CPU (target of the conversion in it: 80), "
          f"{megabytes / took:.0f} MB/s", flush=True)


def requests(bench: Bench) -> None:
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "any"
    aws = Aws(BUCKET)
    # Rules that never come true count what they would be met by. A large upload is begun and ended by a POST.
    parts = {"tier": "/here/tier/", "lake": "/here/lake/", "joined": "/here/lake/.*/joined"}
    kinds = [(part, method) for part in parts for method in ("PUT", "POST")]
    aws.faults(*({"kind": "slow", "times": 0, "method": method, "path": parts[part]} for part, method in kinds), name=BUCKET)
    broker = bench.broker({
        "remote.log.storage.system.enable": "true",
        "ottla.tier.url": f"s3://{BUCKET}/here",
        "ottla.tier.s3.endpoint": aws.url,
    }).start()
    try:
        create_topic(broker, "rows", 1, remote_storage_enable="true", ottla_lake_enable="true")
        sent, _ = bench.send(broker, "rows", bench.options.seconds or 330)
        wait_until_in_table(broker, sent["records"])
        wait_until(lambda: metrics(broker)["ottla_tier_copy_lag_segments"] == 0, 300, "all that is sealed is in the tier")
        with urllib.request.urlopen(f"{aws.url}/_faults/{BUCKET}") as answer:
            met = [rule["met"] for rule in json.loads(answer.read())]
        counted = metrics(broker)
    finally:
        broker.end()
        aws.end()
    puts = {part: sum(count for (of, _), count in zip(kinds, met) if of == part) for part in parts}
    copied, sent_gb = counted["ottla_tier_copied_bytes_total"] / 1e9, sent["bytes"] / 1e9
    print("| | GB | puts | puts a GB | target |\n|---|---|---|---|---|")
    print(f"| tier, {counted['ottla_tier_copied_segments_total']:.0f} segments | {copied:.2f} | {puts['tier']} | {puts['tier'] / copied:.1f} | 75 |")
    print(f"| table, {counted['ottla_lake_files_total']:.0f} files in {counted['ottla_lake_commits_total']:.0f} commits, "
          f"{counted['ottla_lake_joined_files_total']:.0f} joined by {puts['joined']} puts | {sent_gb:.2f} | {puts['lake']} "
          f"| {puts['lake'] / sent_gb:.1f} | 30 |")


PARTS = {"visible": visible, "latency": latency, "catch-up": catch_up, "requests": requests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all without")
    parser.add_argument("--mb-per-s", type=float, default=10)
    parser.add_argument("--seconds", type=int, help="of one run or round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lag-s", type=int, help="ottla.lake.lag.ms in seconds; 60 without, and visible with 5 too")
    parser.add_argument("--csv", default=os.environ.get("STOCK_CSV") or REPOSITORY / "clients" / "examples" / "data" / "stocks.csv")
    parser.add_argument("--varied", type=int, default=1, help="how often the rows of the CSV are sent before any comes again")
    parser.add_argument("--config", action="append", default=[], help="key=value of server.properties")
    parser.add_argument("--directory", type=Path, help="where everything lies, several GB")
    options = parser.parse_args()
    os.environ.setdefault("OTTLA_BINARY", str(REPOSITORY / "target" / "release" / "ottla"))
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=options.directory, prefix="lake-bench-") as directory:
            PARTS[part](Bench(Path(directory), options))


if __name__ == "__main__":
    main()
