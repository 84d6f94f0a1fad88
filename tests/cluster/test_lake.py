"""A topic's table while leaders of its partition 0, and so its committers, are killed, frozen and moved: each record is counted once."""

import json
import sys
import threading
from pathlib import Path

import pytest
from confluent_kafka import Producer

from harness.process import wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lake"))

PARTITIONS = 4
COLUMNS = {"id": "number", "price": "number", "index": "text"}


@pytest.fixture
def duckdb():
    import engines

    engine = engines.DuckDb()
    yield engine
    engine.close()


class Steady(threading.Thread):
    """Produces numbered rows until it is told to stop, each acknowledged in the end."""

    def __init__(self, bootstrap: str, topic: str):
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5,
                                   "message.timeout.ms": 180_000})
        self._topic, self._done = topic, threading.Event()
        self.sent, self.failures = 0, []
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.002):
            value = json.dumps({"Id": self.sent, "Price": self.sent + 0.5, "Index": f"i{self.sent % 7}"})
            self._producer.produce(self._topic, value, key=str(self.sent), on_delivery=self._on_delivery)
            self.sent += 1
            self._producer.poll(0)

    def _on_delivery(self, error, _message) -> None:
        if error:
            self.failures.append(error)

    def finish(self) -> int:
        self._done.set()
        self.join()
        assert self._producer.flush(180) == 0 and not self.failures, self.failures[:3]
        return self.sent


def test_each_record_is_counted_once_while_committers_die_and_sleep(ottla_only, make_cluster, tmp_path, duckdb):
    import engines

    bucket = tmp_path / "bucket"
    cluster = make_cluster({"ottla.tier.url": f"file://{bucket}"}).start(3)
    cluster.create_topic("stocks", PARTITIONS, 3, ottla_lake_enable="true", ottla_lake_lag_ms=5000)
    table = bucket / "lake" / "ottla" / "stocks"

    def rows() -> int:
        return duckdb.totals(table, {})["rows"] if (table / "metadata" / "version-hint.text").exists() else 0

    def wait_for_more() -> None:
        before = rows()
        wait_until(lambda: rows() > before, 90, f"more than {before} rows")

    load = Steady(cluster.bootstrap, "stocks")
    wait_for_more()
    for round_number in range(4):
        committer = cluster.leader("stocks", 0)
        if round_number % 2:
            # It wakes up with what it was about to commit, and somebody else has the table by then.
            cluster.nodes[committer].pause()
            cluster.wait_for_leader("stocks", lambda leader: leader != committer)
            wait_for_more()
            cluster.nodes[committer].resume()
        else:
            cluster.nodes[committer].kill()
            cluster.wait_for_leader("stocks", lambda leader: leader != committer)
            wait_for_more()
            cluster.restart(committer)
        wait_for_more()
        cluster.wait_in_sync("stocks")
    count = load.finish()
    wait_until(lambda: rows() >= count, 90, f"all {count} rows in the table")
    expected = [{"id": number, "price": number + 0.5, "index": f"i{number % 7}"} for number in range(count)]
    assert duckdb.totals(table, COLUMNS) == engines.totals(expected, list(COLUMNS))
