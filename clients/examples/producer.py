#!/usr/bin/env python3
"""Sends the rows of a stock-market CSV to a topic as JSON, one a second or as fast as it goes."""

import argparse
import csv
import json
import sys
import time

from kafka import KafkaProducer
from kafka.errors import KafkaError

COLUMNS = ["Index", "Date", "Open", "High", "Low", "Close", "Adj Close", "Volume", "CloseUSD"]
NUMBERS = COLUMNS[2:]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", help="a file with the columns " + ", ".join(COLUMNS))
    parser.add_argument("--topic", default="demo_testing")
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9092")
    parser.add_argument("--rate", default="1", help="rows per second, or max (default: 1)")
    parser.add_argument("--repeat", type=int, default=1, help="how often to send the file; 0 is for ever")
    arguments = parser.parse_args()
    if arguments.rate == "max":
        arguments.rate = None
    else:
        try:
            arguments.rate = float(arguments.rate)
        except ValueError:
            parser.error("--rate is a number or max")
        if not arguments.rate > 0:
            parser.error("--rate must be more than 0")
    return arguments


def rows(path):
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            sys.exit(f"{path}: no column {', '.join(missing)}")
        for row in reader:
            for column in NUMBERS:
                row[column] = float(row[column])
            yield row


def main():
    arguments = parse_arguments()
    try:
        producer = KafkaProducer(
            bootstrap_servers=arguments.bootstrap_server.split(","),
            acks="all",
            linger_ms=5 if arguments.rate is None else 0,
        )
    except KafkaError as error:
        sys.exit(f"could not connect to {arguments.bootstrap_server}: {error}")

    failures = []
    sent = 0
    started = time.monotonic()
    repeated = 0
    try:
        while arguments.repeat == 0 or repeated < arguments.repeat:
            repeated += 1
            for row in rows(arguments.csv):
                if arguments.rate is not None:
                    due = started + sent / arguments.rate
                    time.sleep(max(0.0, due - time.monotonic()))
                # All rows of one index and day go to one partition, in order.
                key = row["Index"] + row["Date"]
                value = json.dumps(row).encode()
                producer.send(arguments.topic, key=key.encode(), value=value).add_errback(failures.append)
                sent += 1
                if arguments.rate is not None and arguments.rate <= 10:
                    print(f"{key} -> {arguments.topic}", flush=True)
    except KeyboardInterrupt:
        pass
    producer.flush()
    producer.close()
    seconds = time.monotonic() - started
    print(f"{sent - len(failures)} rows sent to {arguments.topic} in {seconds:.1f} s")
    if failures:
        sys.exit(f"{len(failures)} rows not sent, the first because of: {failures[0]}")


if __name__ == "__main__":
    main()
