"""Topics with tables: what stock clients produce is counted by DuckDB, each record once, also when the broker was killed at any
moment and went on."""

import json
import re
import threading
import urllib.request

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

import engines
from harness.broker import Broker
from harness.process import wait_until

PARTITIONS = 3
COLUMNS = {"id": "number", "adj_close": "number", "index": "text"}
QUARANTINED = ["not JSON", "[1]", '{"id": 1, "id": 2}']


@pytest.fixture
def start(tmp_path):
    """Starts a broker whose tables lie in a directory."""
    started: list[Broker] = []

    def start(config: dict[str, str] | None = None) -> Broker:
        broker = Broker("ottla", tmp_path / "broker", {"ottla.tier.url": f"file://{tmp_path}/bucket", **(config or {})})
        started.append(broker)
        return broker.start()

    yield start
    for broker in started:
        broker.end()


@pytest.fixture
def duckdb():
    engine = engines.DuckDb()
    yield engine
    engine.close()


def row(number: int) -> dict:
    return {"id": number, "adj_close": number + 0.25, "index": "HSI" if number % 2 else "NYA"}


def value(number: int) -> bytes:
    row_of = row(number)
    return json.dumps({"Id": row_of["id"], "Adj Close": row_of["adj_close"], "Index": row_of["index"]}).encode()


def create(broker: Broker, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    config = {"ottla.lake.enable": "true", "ottla.lake.lag.ms": "5000", **{f"ottla.lake.{key}": value for key, value in config.items()}}
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)]).values():
        future.result(30)


def table(broker: Broker, name: str):
    return broker.directory.parent / "bucket" / "lake" / "ottla" / name


def rows_in(duckdb, path) -> int:
    if not (path / "metadata" / "version-hint.text").exists():
        return 0
    return duckdb.totals(path, {})["rows"]


def send(broker: Broker, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 5})
    failures = []
    for number, one in enumerate(values):
        while True:
            try:
                producer.produce(topic, one, key=str(number), on_delivery=lambda error, _: error and failures.append(error))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(120) == 0 and not failures, failures[:3]


def metric(broker: Broker, name: str, topic: str) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{broker.health_port}/metrics").read().decode()
    found = re.search(rf'^ottla_lake_{name}\{{topic="{topic}",[^}}]*\}} (\S+)', text, re.MULTILINE)
    return float(found.group(1)) if found else 0


def test_each_record_is_counted_once_over_kills_of_the_broker(start, duckdb):
    broker = start()
    create(broker, "Stock.Rows")
    path = table(broker, "stock_rows")
    count = 6000
    values = [value(number) for number in range(count)]
    for at, odd in enumerate(QUARANTINED):
        values.insert(1000 * (at + 1), odd.encode())
    producing = threading.Thread(target=send, args=(broker, "Stock.Rows", values[:3000]))
    producing.start()
    wait_until(lambda: rows_in(duckdb, path) > 0, 60, "the first commit")
    for _ in range(3):
        broker.kill()
        broker.start()
    producing.join()
    send(broker, "Stock.Rows", values[3000:])
    # One more kill somewhere between reading and commit.
    broker.kill()
    broker.start()
    wait_until(lambda: rows_in(duckdb, path) >= count, 90, "all rows in the table")
    expected = engines.totals([row(number) for number in range(count)], list(COLUMNS))
    assert duckdb.totals(path, COLUMNS) == expected
    quarantine = table(broker, "stock_rows__quarantine")
    assert sorted(duckdb.values(quarantine, "value")) == sorted(QUARANTINED)
    wait_until(lambda: metric(broker, "lag_records", "Stock.Rows") == 0, 30, "no lag")
    # Nothing comes twice later on.
    commits = metric(broker, "commits_total", "Stock.Rows")
    send(broker, "Stock.Rows", [value(count)])
    wait_until(lambda: metric(broker, "commits_total", "Stock.Rows") > commits, 60, "another commit")
    assert duckdb.totals(path, COLUMNS) == engines.totals([row(number) for number in range(count + 1)], list(COLUMNS))


def test_an_old_topic_is_filled_in_from_its_first_record_when_it_is_told_to(start, duckdb):
    broker = start()
    create(broker, "old", enable="false")
    send(broker, "old", [value(number) for number in range(500)])
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    config = {"enable": "true", "lag.ms": "5000", "table": "filled", "partition": "none"}
    resource = ConfigResource(ResourceType.TOPIC, "old", incremental_configs=[
        ConfigEntry(f"ottla.lake.{key}", value, incremental_operation=AlterConfigOpType.SET) for key, value in config.items()])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    path = table(broker, "filled")
    wait_until(lambda: rows_in(duckdb, path) == 500, 60, "the old records in the table")
    assert duckdb.totals(path, COLUMNS) == engines.totals([row(number) for number in range(500)], list(COLUMNS))


def test_what_cannot_be_is_refused_with_a_reason(start, tmp_path):
    broker = start()
    for config, reason in [
        ({"table": "Upper"}, "lower-case letters"),
        ({"lag.ms": "100"}, "at least 5000"),
        ({"schema": "guess"}, "infer, json-schema, raw"),
        ({"schema": "json-schema"}, "needs a JSON Schema"),
        ({"schema": "json-schema", "json.schema": '{"type": "object", "properties": {"a": {"type": "strin"}}}'}, "no such type"),
    ]:
        with pytest.raises(Exception, match=reason):
            create(broker, "refused", **config)
    broker.end()
    without = Broker("ottla", tmp_path / "without")
    try:
        without.start()
        with pytest.raises(Exception, match="ottla.tier.url"):
            create(without, "refused")
    finally:
        without.end()
