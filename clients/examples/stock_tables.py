#!/usr/bin/env python3
"""The stock-market pipeline as a table: producer.py sends the rows of a CSV to a topic, and DuckDB counts them in the topic's
Iceberg table meanwhile. Ends when all are there: exactly as many as were sent, each once, with the sums of the CSV.

Starts a broker of its own that keeps everything below a new directory, or takes a running one whose `ottla.tier.url` is
--tables."""

import argparse
import csv
import glob
import os
import socket
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import duckdb

NUMBERS = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Adj Close": "adj_close", "Volume": "volume",
           "CloseUSD": "close_usd"}
HERE = Path(__file__).resolve().parent


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", help="a file with the columns that producer.py wants")
    parser.add_argument("--rounds", type=int, default=10, help="how often the file is sent (default: 10)")
    parser.add_argument("--ottla", default="ottla", help="the binary")
    parser.add_argument("--topic", default="stocks")
    parser.add_argument("--bootstrap-server", help="a running broker, with --tables; default: start one")
    parser.add_argument("--tables", type=Path, help="the directory of the broker's ottla.tier.url")
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which rows count as lost (default: 300)")
    arguments = parser.parse_args()
    if (arguments.bootstrap_server is None) != (arguments.tables is None):
        parser.error("--bootstrap-server and --tables go together")
    return arguments


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_broker(ottla: str, directory: Path) -> tuple[subprocess.Popen, str, Path]:
    client, controller, http = free_port(), free_port(), free_port()
    tables = directory / "bucket"
    values = {
        "node.id": 1,
        "log.dirs": directory / "data",
        "listeners": f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "ottla.metrics.listener": f"127.0.0.1:{http}",
        "ottla.tier.url": f"file://{tables}",
    }
    command = [ottla, "start"]
    for key, value in values.items():
        command += ["--override", f"{key}={value}"]
    with open(directory / "broker.log", "w") as log:
        broker = subprocess.Popen(command, stdout=log, stderr=log)
    while broker.poll() is None and not listens(client):
        time.sleep(0.1)
    return broker, f"127.0.0.1:{client}", tables


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for name in ("avro", "iceberg"):
        try:
            folder = os.path.dirname(__import__(f"duckdb_extension_{name}").__file__)
            found = glob.glob(os.path.join(folder, "**", f"{name}.duckdb_extension"), recursive=True)
            connection.execute(f"LOAD '{found[0]}'")
        except ImportError:
            connection.execute(f"INSTALL {name}; LOAD {name}")
    return connection


def count(connection, table: Path) -> int:
    if not (table / "metadata" / "version-hint.text").exists():
        return 0  # It is made with the first rows.
    return connection.execute(f"SELECT count(*) FROM iceberg_scan('{table}')").fetchone()[0]


def sums_of_csv(path: str) -> tuple[int, dict[str, Decimal]]:
    rows, sums = 0, {column: Decimal(0) for column in NUMBERS.values()}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            rows += 1
            for name, column in NUMBERS.items():
                sums[column] += Decimal(str(float(row[name])))
    return rows, sums


def run(arguments, bootstrap: str, tables: Path) -> None:
    command = [arguments.ottla, "topics", "-b", bootstrap, "create", arguments.topic, "--partitions", "6",
               "--config", "ottla.lake.enable=true", "--config", "ottla.lake.lag.ms=5000"]
    subprocess.run(command, check=True)
    rows, sums = sums_of_csv(arguments.csv)
    expected = rows * arguments.rounds
    started = time.monotonic()
    producer = subprocess.Popen([sys.executable, HERE / "producer.py", "--bootstrap-server", bootstrap, "--topic",
                                 arguments.topic, "--rate", "max", "--repeat", str(arguments.rounds), arguments.csv])
    connection, table, counted = connect(), tables / "lake" / "ottla" / arguments.topic, -1
    while counted != expected or producer.poll() is None:
        if producer.poll():
            sys.exit("the producer failed")
        now = count(connection, table)
        if now < counted or now > expected:
            sys.exit(f"{now} rows after {counted}, of {expected} that are sent")
        if now != counted:
            counted = now
            print(f"{time.monotonic() - started:6.1f} s  {counted:9,} of {expected:,} rows in the table", flush=True)
        if time.monotonic() - started > arguments.timeout:
            sys.exit(f"only {counted} of {expected} rows came in {arguments.timeout} s")
        time.sleep(0.5)
    check(connection, table, expected, {column: total * arguments.rounds for column, total in sums.items()})
    subprocess.run([arguments.ottla, "lake", "-b", bootstrap, "status", arguments.topic], check=True)


def check(connection, table: Path, expected: int, sums: dict[str, Decimal]) -> None:
    """Sums of decimals, because one of doubles depends on the order of the rows; by way of text, which is each double's own."""
    parts = [f"sum(CAST(CAST({column} AS VARCHAR) AS DECIMAL(38, 16)))" for column in sums]
    query = f"SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset)), {', '.join(parts)} FROM iceberg_scan('{table}')"
    rows, distinct, *found = connection.execute(query).fetchone()
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
        broker, bootstrap, tables = start_broker(arguments.ottla, Path(directory))
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
