#!/usr/bin/env python3
"""The stock-market pipeline as a table: producer.py sends the rows of a CSV to a topic, and SQL counts them in the topic's
Iceberg table meanwhile. Ends when all are there: exactly as many as were sent, each once, with the sums of the CSV.

Where the tables are is --tables: a directory, where DuckDB reads them, or s3://bucket/prefix with AWS Glue as their catalog, which
PyIceberg asks. Both need credentials then as every program of AWS does, from the environment or the profile.

Starts a broker of its own, or takes a running one whose `ottla.tier.url` is --tables."""

import argparse
import csv
import glob
import os
import socket
import subprocess
import sys
import tempfile
import time
from decimal import Decimal, getcontext
from pathlib import Path

NUMBERS = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Adj Close": "adj_close", "Volume": "volume",
           "CloseUSD": "close_usd"}
HERE = Path(__file__).resolve().parent
DATABASE = "ottla"
# No sum is rounded.
getcontext().prec = 100


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", help="a file with the columns that producer.py wants")
    parser.add_argument("--rounds", type=int, default=10, help="how often the file is sent (default: 10)")
    parser.add_argument("--ottla", default="ottla", help="the binary")
    parser.add_argument("--topic", default="stocks")
    parser.add_argument("--bootstrap-server", help="a running broker, with --tables; default: start one")
    parser.add_argument("--tables", help="a directory, or s3://bucket/prefix with Glue (default: a new directory)")
    parser.add_argument("--endpoint", help="URL of services like S3 and Glue; default: Amazon's")
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which rows count as lost (default: 300)")
    arguments = parser.parse_args()
    if arguments.bootstrap_server and not arguments.tables:
        parser.error("--bootstrap-server needs --tables")
    return arguments


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_broker(ottla: str, directory: Path, tables: str, endpoint: str | None) -> tuple[subprocess.Popen, str]:
    client, controller, http = free_port(), free_port(), free_port()
    values = {
        "node.id": 1,
        "log.dirs": directory / "data",
        "listeners": f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "ottla.metrics.listener": f"127.0.0.1:{http}",
        "ottla.tier.url": tables if is_bucket(tables) else f"file://{tables}",
    }
    if is_bucket(tables):
        values["ottla.lake.catalog"] = "glue"
    if endpoint:
        values |= {"ottla.tier.s3.endpoint": endpoint, "ottla.lake.glue.endpoint": endpoint}
    command = [ottla, "start"]
    for key, value in values.items():
        command += ["--override", f"{key}={value}"]
    with open(directory / "broker.log", "w") as log:
        broker = subprocess.Popen(command, stdout=log, stderr=log)
    while broker.poll() is None and not listens(client):
        time.sleep(0.1)
    return broker, f"127.0.0.1:{client}"


def is_bucket(tables: str) -> bool:
    return tables.startswith("s3://")


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class InDirectory:
    """DuckDB, by the table's folder."""

    def __init__(self, tables: str, topic: str):
        import duckdb

        self._table = Path(tables) / "lake" / DATABASE / topic
        self._connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        for name in ("avro", "iceberg"):
            try:
                folder = os.path.dirname(__import__(f"duckdb_extension_{name}").__file__)
                found = glob.glob(os.path.join(folder, "**", f"{name}.duckdb_extension"), recursive=True)
                self._connection.execute(f"LOAD '{found[0]}'")
            except ImportError:
                self._connection.execute(f"INSTALL {name}; LOAD {name}")

    def count(self) -> int:
        if not (self._table / "metadata" / "version-hint.text").exists():
            return 0  # It is made with the first rows.
        return self._select(["count(*)"])[0]

    def totals(self, columns: list[str]) -> list:
        """Rows, distinct records, and a sum for each column. Of decimals, because one of doubles depends on the order of the rows;
        by way of text, which is each double's own."""
        sums = [f"sum(CAST(CAST({column} AS VARCHAR) AS DECIMAL(38, 16)))" for column in columns]
        return list(self._select(["count(*)", "count(DISTINCT (kafka_partition, kafka_offset))", *sums]))

    def _select(self, what: list[str]) -> tuple:
        return self._connection.execute(f"SELECT {', '.join(what)} FROM iceberg_scan('{self._table}')").fetchone()


class InGlue:
    """PyIceberg, by what Glue says."""

    def __init__(self, topic: str, endpoint: str | None):
        from pyiceberg.catalog import load_catalog

        at = {"glue.endpoint": endpoint, "s3.endpoint": endpoint, "s3.region": "us-east-1"} if endpoint else {}
        self._catalog = load_catalog("glue", type="glue", **at)
        self._name = (DATABASE, topic)

    def count(self) -> int:
        if not self._catalog.table_exists(self._name):
            return 0  # It is made with the first rows.
        return self._catalog.load_table(self._name).scan().count()

    def totals(self, columns: list[str]) -> list:
        """As of those in a directory."""
        places = ["kafka_partition", "kafka_offset"]
        rows = self._catalog.load_table(self._name).scan(selected_fields=(*places, *columns)).to_arrow()
        found = [rows.num_rows, rows.select(places).group_by(places).aggregate([]).num_rows]
        for column in columns:
            counted = rows.column(column).value_counts().to_pylist()
            found.append(sum(Decimal(str(one["values"])) * one["counts"] for one in counted))
        return found


def sums_of_csv(path: str) -> tuple[int, dict[str, Decimal]]:
    rows, sums = 0, {column: Decimal(0) for column in NUMBERS.values()}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            rows += 1
            for name, column in NUMBERS.items():
                sums[column] += Decimal(str(float(row[name])))
    return rows, sums


def run(arguments, bootstrap: str, tables: str) -> None:
    command = [arguments.ottla, "topics", "-b", bootstrap, "create", arguments.topic, "--partitions", "6",
               "--config", "ottla.lake.enable=true", "--config", "ottla.lake.lag.ms=5000"]
    subprocess.run(command, check=True)
    rows, sums = sums_of_csv(arguments.csv)
    expected = rows * arguments.rounds
    started = time.monotonic()
    producer = subprocess.Popen([sys.executable, HERE / "producer.py", "--bootstrap-server", bootstrap, "--topic",
                                 arguments.topic, "--rate", "max", "--repeat", str(arguments.rounds), arguments.csv])
    table = InGlue(arguments.topic, arguments.endpoint) if is_bucket(tables) else InDirectory(tables, arguments.topic)
    counted = -1
    while counted != expected or producer.poll() is None:
        if producer.poll():
            sys.exit("the producer failed")
        now = table.count()
        if now < counted or now > expected:
            sys.exit(f"{now} rows after {counted}, of {expected} that are sent")
        if now != counted:
            counted = now
            print(f"{time.monotonic() - started:6.1f} s  {counted:9,} of {expected:,} rows in the table", flush=True)
        if time.monotonic() - started > arguments.timeout:
            sys.exit(f"only {counted} of {expected} rows came in {arguments.timeout} s")
        time.sleep(0.5)
    check(table, expected, {column: total * arguments.rounds for column, total in sums.items()})
    subprocess.run([arguments.ottla, "lake", "-b", bootstrap, "status", arguments.topic], check=True)


def check(table: InDirectory | InGlue, expected: int, sums: dict[str, Decimal]) -> None:
    rows, distinct, *found = table.totals(list(sums))
    for what, is_, should in [("rows", rows, expected), ("distinct records", distinct, expected),
                              *((f"sum of {column}", total, sums[column]) for column, total in zip(sums, found))]:
        if is_ != should:
            sys.exit(f"{what}: {is_} in the table, {should} sent")
        print(f"{what:22} {is_:>34,}")
    print("the table has every row once")


def main() -> None:
    arguments = parse_arguments()
    if arguments.bootstrap_server:
        return run(arguments, arguments.bootstrap_server, arguments.tables)
    with tempfile.TemporaryDirectory(prefix="ottla-stocks-") as directory:
        tables = arguments.tables or f"{directory}/bucket"
        tables = tables if is_bucket(tables) else str(Path(tables).resolve())
        broker, bootstrap = start_broker(arguments.ottla, Path(directory), tables, arguments.endpoint)
        try:
            run(arguments, bootstrap, tables)
        except (SystemExit, subprocess.CalledProcessError):
            print((Path(directory) / "broker.log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            broker.terminate()
            broker.wait(30)


if __name__ == "__main__":
    main()
