"""Topics with tables: what stock clients produce is counted by DuckDB, each record once, also when the broker was killed at any
moment and went on."""

import threading

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

import engines
from harness.broker import Broker
from harness.process import wait_until
from topics import COLUMNS, create, metric, row, send, value

QUARANTINED = ["not JSON", "[1]", '{"id": 1, "id": 2}']


def table(broker: Broker, name: str):
    return broker.directory.parent / "bucket" / "lake" / "ottla" / name


def rows_in(duckdb, path) -> int:
    if not (path / "metadata" / "version-hint.text").exists():
        return 0
    return duckdb.totals(path, {})["rows"]


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
