"""Topics with tables: what stock clients produce is counted by DuckDB, each record once, also when the broker was killed at any
moment and went on."""

import shutil
import threading

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

import engines
from harness import environment
from harness.broker import Broker
from harness.process import run, wait_until
from topics import COLUMNS, PARTITIONS, create, metric, row, send, value

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


def test_a_topic_that_is_restored_from_the_tier_adds_no_row_twice(start, duckdb):
    broker = start({
        "remote.log.storage.system.enable": "true",
        "remote.log.manager.task.interval.ms": "200",
        "log.initial.task.delay.ms": "100",
        "ottla.tier.segment.ms.max": "500",
    })
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    config = {"remote.storage.enable": "true", "ottla.lake.enable": "true", "ottla.lake.lag.ms": "5000"}
    for future in admin.create_topics([NewTopic("rows", PARTITIONS, 1, config=config)]).values():
        future.result(30)
    path = table(broker, "rows")
    send(broker, "rows", [*(value(number) for number in range(300)), *(odd.encode() for odd in QUARANTINED)])
    wait_until(lambda: rows_in(duckdb, path) == 300, 60, "the rows in the table")
    ottla = str(environment.ottla_binary())
    properties = str(broker.directory / "server.properties")

    def lags() -> list[str]:
        return [line.split()[4] for line in run([ottla, "tier", "status", "-b", broker.bootstrap, properties]).lines[1:]]

    wait_until(lambda: lags() == ["0"] * PARTITIONS, 60, "all records are in the tier")
    states = broker.directory.parent / "bucket" / "tier" / "v1" / "cluster"
    wait_until(lambda: any("rows" in state.read_text() for state in states.glob("*.json")), 30, "the topic is known in the tier")
    # These come into the table, and not into the tier.
    resource = ConfigResource(ResourceType.TOPIC, "rows", incremental_configs=[
        ConfigEntry("remote.log.copy.disable", "true", incremental_operation=AlterConfigOpType.SET)])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    send(broker, "rows", [value(number) for number in range(300, 400)])
    wait_until(lambda: rows_in(duckdb, path) == 400, 60, "more rows in the table")
    assert "0" not in lags()

    broker.kill()
    shutil.rmtree(broker.data_dir)
    run([ottla, "tier", "restore", properties])
    broker.start()
    # They take offsets of those that were lost, of which the table still has the rows.
    send(broker, "rows", [value(number) for number in range(400, 450)])
    wait_until(lambda: metric(broker, "commits_total", "rows") > 0 and metric(broker, "lag_records", "rows") == 0, 60, "no lag")
    assert sorted(duckdb.values(path, "id")) == list(range(450))
    assert sorted(duckdb.values(table(broker, "rows__quarantine"), "value")) == sorted(QUARANTINED)


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
