"""The same load on Apache Kafka and on Ottla, one after the other, on the same disk: a table and a plot.

    make compare                      # everything, three rounds, about 25 minutes on two cores
    make compare COMPARE_ARGS="--rounds 1 --scale 0.2"

Both are given the same server.properties and hold themselves to the same durability: `page cache` is Kafka's default
and Ottla's `ottla.durability=memory`; `fsync` is Ottla's default and Kafka's `flush.messages=1`. Kafka runs with the heap
and collector of its start script. Clients: librdkafka (load.c) and Kafka's own perf tools. Values are medians of the
rounds; the machine drifts, so ratios within one run are what counts. Most of the memory is held by another process
meanwhile: see `steady_memory`.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "stock"))
# The debug build is what tests use.
os.environ.setdefault("OTTLA_BINARY", str(REPOSITORY / "target" / "release" / "ottla"))

from harness import environment, tools  # noqa: E402
from harness.broker import Broker  # noqa: E402

KIB = 1024
# The JVM options of kafka-server-start.sh and kafka-run-class.sh.
KAFKA_JVM = ["-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
             "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent",
             "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true"]
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int, field: str) -> float:
    """Resident memory now (VmRSS) or at its highest (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / KIB


class Measured(Broker):
    """A broker as its users run it, and what it costs."""

    kafka_jvm = KAFKA_JVM

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def memory_mb(self, field: str) -> float:
        return memory_mb(self.pid, field)


# Memory that the brokers and their page cache share while the rest is held.
SHARED_MEMORY_BYTES = 5 << 30


@contextlib.contextmanager
def steady_memory(directory: Path):
    """A machine that has run for a while: its page cache is full, and new pages are old ones taken back. On a virtual
    machine with much free memory the first use of a page costs the host's fault, several times the write itself, and
    whoever writes first would pay for it. Most memory is held by a process, the rest is filled by writing a file."""
    available = int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text()).group(1)) * KIB
    program = ("import mmap, sys\n"
               "size = int(sys.argv[1])\n"
               "memory = mmap.mmap(-1, size)\n"
               "for at in range(0, size, 4096): memory[at] = 1\n"
               "print('held', flush=True)\n"
               "sys.stdin.read()\n")
    holder = None
    filler = directory / "filler"
    try:
        if available > SHARED_MEMORY_BYTES + (1 << 30):
            holder = subprocess.Popen([sys.executable, "-c", program, str(available - SHARED_MEMORY_BYTES)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            holder.stdout.readline()

        def refill() -> None:
            """Before each broker: what the last one's files held is free now, and its pages go back to the host."""
            filler.unlink(missing_ok=True)
            with open(filler, "wb") as file:
                for _ in range(SHARED_MEMORY_BYTES >> 20):
                    file.write(bytes(1 << 20))
            settle()

        yield refill
    finally:
        if holder is not None:
            holder.kill()
            holder.wait()
        filler.unlink(missing_ok=True)


def settle() -> None:
    """Writes of the last load must not be charged to the next one."""
    subprocess.run(["sync"], check=True)
    time.sleep(1)


def load(binary: Path, *arguments: object) -> dict:
    done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True, timeout=240)
    if done.returncode != 0:
        raise RuntimeError(f"load {arguments}: {done.stdout} {done.stderr}")
    return json.loads(done.stdout)


def create(broker: Broker, topic: str, partitions: int) -> None:
    kafka = tools.KafkaTools(environment.KAFKA_BROKER_VERSION, broker.bootstrap)
    run = subprocess.run(kafka.command("kafka-topics", "--create", "--topic", topic, "--partitions", str(partitions),
                                       "--replication-factor", "1"), capture_output=True, text=True, timeout=120)
    if run.returncode != 0:
        raise RuntimeError(run.stdout + run.stderr)


def costed(broker: Measured, run, megabytes: float) -> dict:
    before = broker.cpu_s()
    result = run()
    result["cpu_s_per_gb"] = (broker.cpu_s() - before) / (megabytes / 1000)
    return result


def perf_producer(broker: Broker, topic: str, records: int, size: int) -> dict:
    kafka = tools.KafkaTools(environment.KAFKA_BROKER_VERSION, broker.bootstrap)
    done = subprocess.run(
        kafka.command("kafka-producer-perf-test", "--topic", topic, "--num-records", str(records), "--record-size",
                      str(size), "--throughput", "-1", "--producer-props", f"bootstrap.servers={broker.bootstrap}",
                      "acks=all", "linger.ms=5", "batch.size=131072"),
        capture_output=True, text=True, timeout=240)
    found = re.findall(r"([\d.]+) records/sec \(([\d.]+) MB/sec\), ([\d.]+) ms avg latency.*?([\d.]+) ms 99th", done.stdout)
    if not found:
        raise RuntimeError(done.stdout + done.stderr)
    rate, _, _, p99 = found[-1]
    return {"records_per_s": float(rate), "mb_per_s": float(rate) * size / 1e6, "p99_ms": float(p99)}


def perf_consumer(broker: Broker, topic: str, records: int, size: int) -> dict:
    kafka = tools.KafkaTools(environment.KAFKA_BROKER_VERSION, broker.bootstrap)
    done = subprocess.run(
        kafka.command("kafka-consumer-perf-test", "--topic", topic, "--messages",
                      str(records), "--timeout", "60000", "--hide-header"),
        capture_output=True, text=True, timeout=240)
    rows = [line.split(",") for line in done.stdout.splitlines() if line.count(",") >= 9]
    if not rows:
        raise RuntimeError(done.stdout + done.stderr)
    fetch_mb_s, fetch_records_s = float(rows[-1][8]), float(rows[-1][9])
    return {"records_per_s": fetch_records_s, "mb_per_s": fetch_mb_s * 1.048576}


def run_round(kind: str, binary: Path, directory: Path, scale: float, refill) -> dict[str, dict]:
    """All workloads on one broker of a kind, page cache durability, then the fsync ones on a fresh one."""
    results: dict[str, dict] = {}
    memory = {"ottla.durability": "memory"} if kind == "ottla" else {}
    refill()
    broker = Measured(kind, directory / f"{kind}-memory", {"auto.create.topics.enable": "true", **memory})
    try:
        results["start"] = time_start(broker, binary)
        time.sleep(3)
        results["idle"] = {"memory_mb": broker.memory_mb("VmRSS")}
        big, small = int(1_500_000 * scale), int(8_000_000 * scale)
        for name, partitions, records, size in [
            ("1 KiB, 1 partition", 1, big, KIB),
            ("1 KiB, 6 partitions", 6, big, KIB),
            ("100 B, 1 partition", 1, small, 100),
        ]:
            topic = f"load-{size}-{partitions}"
            create(broker, topic, partitions)
            load(binary, "produce", broker.bootstrap, topic, max(records // 10, 1), size, 1)  # warm-up
            settle()
            megabytes = records * size / 1e6
            results[f"produce {name}"] = costed(
                broker, lambda: load(binary, "produce", broker.bootstrap, topic, records, size, 1), megabytes)
            settle()
            results[f"consume {name}"] = costed(
                broker, lambda: load(binary, "consume", broker.bootstrap, topic, records), megabytes)
        create(broker, "java", 6)
        java = int(600_000 * scale)
        perf_producer(broker, "java", max(java // 4, 1), KIB)
        settle()
        results["kafka-producer-perf-test 1 KiB"] = costed(
            broker, lambda: perf_producer(broker, "java", java, KIB), java * KIB / 1e6)
        results["kafka-consumer-perf-test 1 KiB"] = costed(
            broker, lambda: perf_consumer(broker, "java", java, KIB), java * KIB / 1e6)
        settle()
        create(broker, "latency", 1)
        results["end to end, 10,000/s"] = load(binary, "latency", broker.bootstrap, "latency",
                                               int(100_000 * max(scale, 0.3)), KIB, 10_000)
        results["peak"] = {"memory_mb": broker.memory_mb("VmHWM")}
        broker.stop()
    finally:
        broker.end()
    refill()
    fsync = {} if kind == "ottla" else {"log.flush.interval.messages": "1"}
    broker = Measured(kind, directory / f"{kind}-fsync", fsync).start()
    try:
        create(broker, "synced", 1)
        records = int(300_000 * scale)
        load(binary, "produce", broker.bootstrap, "synced", max(records // 10, 1), KIB, "all")
        results["produce 1 KiB, 1 partition, fsync"] = costed(
            broker, lambda: load(binary, "produce", broker.bootstrap, "synced", records, KIB, "all"), records * KIB / 1e6)
        settle()
        create(broker, "latency", 1)
        results["end to end, 10,000/s, fsync"] = load(binary, "latency", broker.bootstrap, "latency",
                                                      int(100_000 * max(scale, 0.3)), KIB, 10_000)
        broker.stop()
    finally:
        broker.end()
    return results


def time_start(broker: Measured, binary: Path) -> dict:
    """From the process's start on an empty directory to the first record acknowledged with acks=all. The client is started
    when the port accepts: librdkafka looks for a broker that was not there only every second."""
    broker.directory.mkdir(parents=True, exist_ok=True)
    # Formatting Kafka's directory comes before the start; Ottla has no such step.
    broker._command(broker._write_properties())
    begin = time.monotonic()
    broker.spawn()
    while True:
        try:
            socket.create_connection(("127.0.0.1", broker.port), timeout=1).close()
            break
        except OSError:
            if time.monotonic() - begin > 60:
                raise
            time.sleep(0.001)
    load(binary, "first", broker.bootstrap, "first")
    seconds = time.monotonic() - begin
    return {"seconds": seconds}


def median_of(rounds: list[dict[str, dict]]) -> dict[str, dict]:
    return {
        name: {
            key: statistics.median(one[name][key] for one in rounds)
            for key in rounds[0][name] if isinstance(rounds[0][name][key], (int, float))
        }
        for name in rounds[0]
    }


# What is shown: label, workload, value, unit, whether more is better.
def rows_of(results: dict[str, dict]) -> list[tuple[str, str, str, str, bool]]:
    rows = []
    for name in results:
        values = results[name]
        if "mb_per_s" in values:
            rows.append((name, name, "mb_per_s", "MB/s", True))
        if "cpu_s_per_gb" in values:
            rows.append((f"{name}: broker CPU", name, "cpu_s_per_gb", "s/GB", False))
        for percentile in ("p50_ms", "p99_ms", "p999_ms"):
            if percentile in values and "end to end" in name:
                rows.append((f"{name}: {percentile[:-3]}", name, percentile, "ms", False))
    rows.append(("start to first acknowledged record", "start", "seconds", "s", False))
    rows.append(("memory, idle", "idle", "memory_mb", "MB", False))
    rows.append(("memory, peak", "peak", "memory_mb", "MB", False))
    return rows


def table(kafka: dict, ottla: dict) -> tuple[str, list[tuple[str, float, bool]]]:
    lines = ["| | Apache Kafka | Ottla | Ottla / Kafka |", "| --- | ---: | ---: | ---: |"]
    ratios = []
    for label, name, key, unit, more_is_better in rows_of(kafka):
        a, b = kafka[name][key], ottla[name][key]
        ratio = b / a if a else float("nan")
        ratios.append((label, ratio, more_is_better))
        lines.append(f"| {label} | {a:,.2f} {unit} | {b:,.2f} {unit} | {shown(ratio)} |")
    return "\n".join(lines) + "\n", ratios


def shown(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def plot(ratios: list[tuple[str, float, bool]]) -> str:
    """Bars of Ottla / Kafka on a logarithmic scale; the line in the middle is Kafka. Green is better."""
    import math
    row, left, width = 22, 330, 460
    height = row * len(ratios) + 60
    span = math.log(32)
    middle = left + width / 2

    def x(ratio: float) -> float:
        return middle + max(-1.0, min(1.0, math.log(max(ratio, 1e-9)) / span)) * width / 2

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}" '
           f'font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           '<text x="10" y="18" font-size="14">Ottla relative to Apache Kafka (1 = the same)</text>']
    for mark in (1 / 16, 1 / 4, 1, 4, 16):
        label = f"{mark:g}" if mark >= 1 else f"1/{int(1 / mark)}"
        out.append(f'<line x1="{x(mark):.1f}" y1="32" x2="{x(mark):.1f}" y2="{height - 12}" '
                   f'stroke="{"#333" if mark == 1 else "#ddd"}"/>'
                   f'<text x="{x(mark):.1f}" y="30" text-anchor="middle" fill="#666">{label}</text>')
    for index, (label, ratio, more_is_better) in enumerate(ratios):
        y = 40 + index * row
        better = (ratio >= 1) == more_is_better or ratio == 1
        a, b = sorted((middle, x(ratio)))
        out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{label}</text>'
                   f'<rect x="{a:.1f}" y="{y + 2}" width="{max(b - a, 1):.1f}" height="{row - 8}" '
                   f'fill="{"#2a9d57" if better else "#c8553d"}"/>'
                   f'<text x="{left + width + 8}" y="{y + 13}">{shown(ratio)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def measure(description: str, run_round, rounds_file: str) -> tuple[argparse.Namespace, dict[str, dict]] | None:
    """Runs the rounds that the command line asks for and answers the medians by kind of broker; `run_round(kind, binary,
    directory, scale, refill)` is one of them. None if there is nothing to compare: what one of them measured is printed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the full load")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target" / "compare")
    parser.add_argument("--only", choices=["kafka", "ottla"], help="one of them, no table: for work on it")
    parser.add_argument("--shared-machine", action="store_true",
                        help="leave memory to others: first uses of pages cost, and whoever writes first pays for them")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    binary = arguments.out / "load"
    subprocess.run(["cc", "-O2", "-o", str(binary), str(HERE / "load.c"), "-lrdkafka", "-lpthread"], check=True)
    kinds = [arguments.only] if arguments.only else ["kafka", "ottla"]
    rounds: dict[str, list] = {kind: [] for kind in kinds}
    directory = Path(tempfile.mkdtemp(prefix="ottla-compare-", dir=arguments.out))
    try:
        steady = contextlib.nullcontext(settle) if arguments.shared_machine else steady_memory(directory)
        with steady as refill:
            for number in range(arguments.rounds):
                for kind in kinds:
                    print(f"round {number + 1} of {arguments.rounds}: {kind}", file=sys.stderr, flush=True)
                    rounds[kind].append(run_round(kind, binary, directory, arguments.scale, refill))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    (arguments.out / rounds_file).write_text(json.dumps(rounds, indent=1))
    medians = {kind: median_of(rounds[kind]) for kind in kinds}
    if arguments.only:
        print(json.dumps(medians[arguments.only], indent=1))
        return None
    return arguments, medians


def main() -> None:
    if not (measured := measure(__doc__, run_round, "rounds.json")):
        return
    arguments, medians = measured
    text, ratios = table(medians["kafka"], medians["ottla"])
    (arguments.out / "table.md").write_text(text)
    (arguments.out / "plot.svg").write_text(plot(ratios))
    print(text)
    print(f"written: {arguments.out}/table.md, plot.svg, rounds.json", file=sys.stderr)


if __name__ == "__main__":
    main()
