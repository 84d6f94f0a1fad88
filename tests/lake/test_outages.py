"""S3 and Glue go away, each in several ways, while producers go on: no produce is refused or waits for it, tables that can be reached are
committed, metrics tell of the others, and in the end each table has every record once."""

import threading

from confluent_kafka import Producer

import engines
from engines import InGlue
from harness.broker import Broker
from harness.process import wait_until
from topics import COLUMNS, create, in_glue, metric, row, value

# What becomes of requests for the folder of the table of that name.
S3_OUTAGES = {
    "refused": [{"kind": "refuse"}],
    "hung_up": [{"kind": "drop"}],
    # Longer than a request may take; it is done all the same, after it was given up.
    "slow": [{"kind": "slow", "seconds": 3}],
    "cut": [{"kind": "cut", "method": "GET"}, {"kind": "lose", "method": "PUT"}],
}
UNTOUCHED = "untouched"
# Whose first records come while Glue is away.
LATE = "late"
PATIENCE = {"ottla.tier.s3.retries": "1", "ottla.tier.s3.request.timeout.ms": "2000", "ottla.tier.s3.connect.timeout.ms": "1000"}


class Steady(threading.Thread):
    """Produces numbered rows to topics in turn; a record that is not acknowledged in ten seconds has failed."""

    def __init__(self, broker: Broker, topics: list[str]):
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "enable.idempotence": True,
                                   "linger.ms": 5, "message.timeout.ms": 10_000})
        self._ended = threading.Event()
        self.sent = dict.fromkeys(topics, 0)
        self.acknowledged, self.failures = 0, []
        self.start()

    def add(self, topic: str) -> None:
        self.sent = {**self.sent, topic: 0}

    def run(self) -> None:
        while not self._ended.wait(0.005):
            sent = self.sent
            for topic, number in sent.items():
                self._producer.produce(topic, value(number), key=str(number), on_delivery=self._on_delivery)
                sent[topic] = number + 1
            self._producer.poll(0)

    def _on_delivery(self, error, _message) -> None:
        if error:
            self.failures.append(error)
        else:
            self.acknowledged += 1

    def end(self) -> dict[str, int]:
        self._ended.set()
        self.join()
        assert self._producer.flush(30) == 0 and not self.failures, self.failures[:3]
        return self.sent


def at_least_more(broker: Broker, name: str, topics: list[str], by: int, timeout_s: float, what: str) -> None:
    before = {topic: metric(broker, name, topic) for topic in topics}
    wait_until(lambda: all(metric(broker, name, topic) >= before[topic] + by for topic in topics), timeout_s, what, poll_s=0.2)


def test_tables_catch_up_after_outages_of_s3_and_glue_and_producers_notice_nothing(start, aws, duckdb):
    broker = start(in_glue(aws) | PATIENCE)
    topics = [*S3_OUTAGES, UNTOUCHED]
    for topic in topics:
        create(broker, topic)
    load = Steady(broker, topics)
    at_least_more(broker, "commits_total", topics, 1, 60, "the first commits")

    rules = [{**rule, "path": f"/lake/kafka/{topic}/"} for topic, outage in S3_OUTAGES.items() for rule in outage]
    aws.faults(*rules, name="lake")
    acknowledged = load.acknowledged
    at_least_more(broker, "errors_total", list(S3_OUTAGES), 2, 60, "errors of the tables that cannot be reached")
    at_least_more(broker, "commits_total", [UNTOUCHED], 1, 30, "the other table goes on")
    # Whoever looks at the metrics sees how late they are, and that it becomes more.
    for topic in S3_OUTAGES:
        wait_until(lambda: metric(broker, "lag_seconds", topic) > 8, 30, f"the lag of {topic} in seconds")
    at_least_more(broker, "lag_records", list(S3_OUTAGES), 100, 30, "a lag that grows")
    assert load.acknowledged > acknowledged and not load.failures, load.failures[:3]
    aws.faults(name="lake")

    aws.faults({"kind": "drop"}, name="kafka")
    create(broker, LATE)
    load.add(LATE)
    acknowledged = load.acknowledged
    at_least_more(broker, "errors_total", [*topics, LATE], 1, 60, "errors of all tables")
    at_least_more(broker, "lag_records", [UNTOUCHED], 100, 30, "a lag that grows")
    assert load.acknowledged > acknowledged and not load.failures, load.failures[:3]
    # It comes back, and every third of its answers to commits is lost.
    aws.faults({"kind": "lose", "operation": "UpdateTable", "every": 3}, {"kind": "lose", "operation": "CreateTable", "every": 2},
               name="kafka")

    sent = load.end()
    for topic, count in sent.items():
        table = InGlue(aws.url, "kafka", topic)
        wait_until(lambda: table.entry() is not None and duckdb.totals(table, {})["rows"] >= count, 90,
                   f"all {count} rows in {topic}", poll_s=0.5)
        wait_until(lambda: metric(broker, "lag_records", topic) == 0, 30, f"no lag of {topic}")
        expected = engines.totals([row(number) for number in range(count)], list(COLUMNS))
        assert duckdb.totals(table, COLUMNS) == expected, topic
