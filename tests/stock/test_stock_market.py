"""The job that tutorials build: rows of a stock-market CSV through the project's own kafka-python producer into a topic
of 6 partitions keyed by Index and Date, and out of a group of three consumers, exactly once and in order, while one
consumer leaves and another joins; then kill -9, and the group goes on where it was."""

import csv
import json
import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest
from kafka import KafkaConsumer

from harness import environment
from harness.kafka_python import subscribe
from harness.process import run, wait_until
from harness.samples import create_topic
from harness.tools import KafkaTools

_PARTITIONS = 6
_EXAMPLES = environment.REPOSITORY / "clients" / "examples"


@pytest.fixture
def stocks(tmp_path) -> Path:
    """The real rows where they are there, else the made-up ones of the examples, ten times under other names."""
    if real := environment.stock_csv():
        return real
    with open(_EXAMPLES / "data" / "stocks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return write_rows(tmp_path / "stocks.csv", [{**row, "Index": f"{row['Index']}-{copy}"} for copy in range(10) for row in rows])


def write_rows(path: Path, rows: list[dict]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def send_rows(broker, topic: str, file, rate: str):
    """Runs the example producer to its end."""
    return run([sys.executable, str(_EXAMPLES / "producer.py"), "--bootstrap-server", broker.bootstrap, "--topic", topic,
                "--rate", rate, str(file)], timeout_s=120)


class Group:
    """Consumers of one group, each on its own thread. What a poll gave is kept and committed before the next poll, so
    each record is kept exactly once if the broker hands partitions over at committed offsets."""

    def __init__(self, broker, topic: str):
        self.records: list = []
        self.errors: list[BaseException] = []
        self._broker, self._topic = broker, topic
        self._members: list[tuple[KafkaConsumer, threading.Event, threading.Thread]] = []

    def join(self) -> None:
        consumer = KafkaConsumer(bootstrap_servers=self._broker.bootstrap, group_id=self._topic,
                                 auto_offset_reset="earliest", enable_auto_commit=False, max_poll_records=20,
                                 heartbeat_interval_ms=300, session_timeout_ms=15_000)
        subscribe(consumer, [self._topic])
        leave = threading.Event()
        thread = threading.Thread(target=self._consume, args=(consumer, leave))
        self._members.append((consumer, leave, thread))
        thread.start()

    def _consume(self, consumer: KafkaConsumer, leave: threading.Event) -> None:
        try:
            while not leave.is_set():
                polled = [record for batch in consumer.poll(200).values() for record in batch]
                if polled:
                    self.records.extend(polled)
                    consumer.commit()
            consumer.close()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.errors.append(error)

    def leave(self, at: int) -> None:
        _, leave, thread = self._members.pop(at)
        leave.set()
        thread.join(60)

    def leave_all(self) -> None:
        while self._members:
            self.leave(0)

    def shares(self) -> list[int]:
        return sorted(len(consumer.assignment()) for consumer, _, _ in self._members)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: self.errors or len(self.records) >= count, 120,
                   f"{count} records of the group")
        assert not self.errors, self.errors


def test_every_row_exactly_once_through_a_changing_group(start_broker, name, stocks, tmp_path):
    broker = start_broker()
    with open(stocks, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["Index"], row["Date"]) for row in rows}) == len(rows) >= 1_000
    create_topic(broker, name, partitions=_PARTITIONS)

    group = Group(broker, name)
    try:
        for _ in range(3):
            group.join()
        wait_until(lambda: group.shares() == [2, 2, 2], 45, "three consumers with two partitions each")
        # About five seconds of sending, so that the group changes while records flow.
        sender = threading.Thread(target=send_rows, args=(broker, name, stocks, str(len(rows) // 5)))
        sender.start()
        group.wait_for(len(rows) // 5)
        group.leave(0)
        group.wait_for(len(rows) // 2)
        group.join()
        sender.join(120)
        group.wait_for(len(rows))
        wait_until(lambda: group.shares() == [2, 2, 2], 45, "three consumers again")
    finally:
        group.leave_all()

    check_exactly_once_in_order(group.records, rows)

    # Nothing in flight: what the group committed must be there after the worst end.
    tools = KafkaTools("3.9.0", broker.bootstrap)
    assert lag(tools, name) == 0
    broker.kill()
    broker.start()
    assert lag(tools, name) == 0

    send_rows(broker, name, write_rows(tmp_path / "few.csv", rows[:100]), "max")
    assert lag(tools, name) == 100
    group.records.clear()
    try:
        group.join()
        group.wait_for(100)
    finally:
        group.leave_all()
    assert sorted(key_of(record) for record in group.records) == sorted(key_of_row(row) for row in rows[:100])
    assert lag(tools, name) == 0


def key_of(record) -> str:
    return record.key.decode()


def key_of_row(row: dict) -> str:
    return row["Index"] + row["Date"]


def check_exactly_once_in_order(records, rows) -> None:
    by_partition = defaultdict(list)
    for record in records:
        by_partition[record.partition].append(record)
    assert len(by_partition) == _PARTITIONS
    position = {key_of_row(row): at for at, row in enumerate(rows)}
    for partition, given in by_partition.items():
        assert [record.offset for record in given] == list(range(len(given))), f"partition {partition}"
        sent_at = [position[key_of(record)] for record in given]
        assert sent_at == sorted(sent_at), f"partition {partition}"
    assert len(records) == len(rows)
    for record in records:
        row = rows[position[key_of(record)]]
        value = json.loads(record.value)
        assert {key: str(value[key]) for key in row} == row or all(
            value[key] == row[key] or float(value[key]) == float(row[key]) for key in row)


def lag(tools: KafkaTools, group: str) -> int:
    described = tools.run("kafka-consumer-groups", "--describe", "--group", group)
    lines = [line.split() for line in described.lines if line.startswith(group)]
    assert len(lines) == _PARTITIONS, described.report
    return sum(int(line[5]) for line in lines)
