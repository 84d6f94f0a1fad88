#!/usr/bin/env python3
"""Prints the rows that producer.py sends, alone or as one of a group that shares the partitions."""

import argparse
import json
import signal
import sys
import time

from kafka import KafkaConsumer
from kafka.errors import KafkaError


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topic", default="demo_testing")
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9092")
    parser.add_argument("--group", help="read as a member of this group, from where the group left off")
    parser.add_argument("--from", dest="start", choices=["beginning", "end"], default="beginning",
                        help="where to start when the group has not read here before, or without a group")
    parser.add_argument("--max", type=int, help="stop after so many rows")
    parser.add_argument("--idle", type=float, metavar="SECONDS", help="stop when nothing came for so long")
    return parser.parse_args()


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    arguments = parse_arguments()
    # Stopped politely, a member of a group commits and leaves: the others take over at once.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=arguments.bootstrap_server.split(","),
            group_id=arguments.group,
            auto_offset_reset="earliest" if arguments.start == "beginning" else "latest",
            consumer_timeout_ms=arguments.idle * 1000 if arguments.idle else float("inf"),
        )
    except KafkaError as error:
        sys.exit(f"could not connect to {arguments.bootstrap_server}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

    count = 0
    try:
        # kafka-python 3 may come to lead the group before it knows a topic that is new, and then assigns nothing. So the
        # topic is asked for first, which also creates it where brokers do that.
        while not consumer.partitions_for_topic(arguments.topic):
            time.sleep(0.2)
        consumer.subscribe([arguments.topic])
        for message in consumer:
            row = json.loads(message.value)
            print(f"{message.partition}:{message.offset} {message.key.decode()} {json.dumps(row)}", flush=True)
            count += 1
            if arguments.max and count >= arguments.max:
                break
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()
    print(f"{count} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
