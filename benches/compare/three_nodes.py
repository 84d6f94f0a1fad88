"""The same load on three nodes of Apache Kafka and on three of Ottla, one after the other, on the same machine: a table.

    make compare-cluster                                # three rounds, about 15 minutes on two cores
    make compare-cluster COMPARE_ARGS="--rounds 1 --scale 0.2"

Topics with three replicas, two in sync, acks=all. Both run with their own defaults: Ottla syncs to disk before it acknowledges,
Kafka does not. Every node in its own network namespace where there can be one. CPU and memory are the sum over the three
nodes. The rest is as in compare.py.
"""

import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "stock"))
sys.path.insert(0, str(REPOSITORY / "tests" / "cluster"))
sys.path.insert(0, str(HERE))

from cluster import SHIPPED, Cluster  # noqa: E402
from compare import KAFKA_JVM, KIB, cpu_s, load, measure, memory_mb, settle, shown  # noqa: E402

# Label, partitions, records at scale 1, bytes of a record.
WORKLOADS = [("1 KiB, 1 partition", 1, 600_000, KIB), ("1 KiB, 6 partitions", 6, 600_000, KIB), ("100 B, 6 partitions", 6, 3_000_000, 100)]


class MeasuredCluster(Cluster):
    """Three nodes as their users run them, and what they cost together."""

    def __init__(self, kind: str, directory: Path):
        super().__init__(kind, directory, base=SHIPPED)
        for node in (1, 2, 3):
            self.add(node).kafka_jvm = KAFKA_JVM

    def cpu_s(self) -> float:
        return sum(cpu_s(node.process.pid) for node in self.nodes.values())

    def memory_mb(self, field: str) -> float:
        return sum(memory_mb(node.process.pid, field) for node in self.nodes.values())


def run_round(kind: str, binary: Path, directory: Path, scale: float, refill) -> dict[str, dict]:
    results: dict[str, dict] = {}
    refill()
    begin = time.monotonic()
    cluster = MeasuredCluster(kind, directory / kind)
    try:
        cluster.start()
        results["start"] = {"seconds": time.monotonic() - begin}
        time.sleep(3)
        results["idle"] = {"memory_mb": cluster.memory_mb("VmRSS")}
        for name, partitions, records, size in WORKLOADS:
            topic = cluster.create_topic(f"load-{size}-{partitions}", partitions)
            records = int(records * scale)
            load(binary, "produce", cluster.bootstrap, topic, max(records // 10, 1), size, "all")  # warm-up
            settle()
            before = cluster.cpu_s()
            results[f"produce {name}"] = load(binary, "produce", cluster.bootstrap, topic, records, size, "all")
            cluster.wait_in_sync(topic)
            results[f"produce {name}"]["cpu_s_per_gb"] = (cluster.cpu_s() - before) / (records * size / 1e9)
            settle()
            before = cluster.cpu_s()
            results[f"consume {name}"] = load(binary, "consume", cluster.bootstrap, topic, records)
            results[f"consume {name}"]["cpu_s_per_gb"] = (cluster.cpu_s() - before) / (records * size / 1e9)
        topic = cluster.create_topic("latency", 1)
        settle()
        results["end to end, 1,000/s"] = load(binary, "latency", cluster.bootstrap, topic, int(10_000 * max(scale, 0.5)), KIB, 1_000)
        results["peak"] = {"memory_mb": cluster.memory_mb("VmHWM")}
    finally:
        cluster.end()
        shutil.rmtree(cluster.directory, ignore_errors=True)
    return results


def table(kafka: dict, ottla: dict) -> str:
    lines = ["| three replicas, acks=all | Apache Kafka | Ottla | Ottla / Kafka |", "| --- | ---: | ---: | ---: |"]
    for name, values in kafka.items():
        for key, unit, label in [("mb_per_s", "MB/s", name), ("cpu_s_per_gb", "s/GB", f"{name}: CPU of the nodes"),
                                 ("p50_ms", "ms", f"{name}: p50"), ("p99_ms", "ms", f"{name}: p99"),
                                 ("p999_ms", "ms", f"{name}: p999"), ("memory_mb", "MB", f"memory of the nodes, {name}")]:
            if key in values:
                lines.append(f"| {label} | {values[key]:,.2f} {unit} | {ottla[name][key]:,.2f} {unit} | "
                             f"{shown(ottla[name][key] / values[key])} |")
    lines.append(f"| start to ready, all three | {kafka['start']['seconds']:.2f} s | {ottla['start']['seconds']:.2f} s | "
                 f"{shown(ottla['start']['seconds'] / kafka['start']['seconds'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if not (measured := measure(__doc__, run_round, "cluster-rounds.json")):
        return
    arguments, medians = measured
    text = table(medians["kafka"], medians["ottla"])
    (arguments.out / "cluster-table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
