"""Topics with tables in an Iceberg REST catalog, Apache Iceberg's own: rows by PyIceberg's client of the same API and by DuckDB, what
others change there, and every record once whatever becomes of the catalog's answers."""

import json
import random
import time

import pyarrow
import pytest

import engines
from engines import InGlue, InRest
from harness import environment
from harness.broker import Broker
from harness.iceberg_rest import TOKEN, IcebergRest
from harness.process import run, wait_until
from test_outages import Steady
from topics import COLUMNS, create, metric, row, send, value

# Of a commit, and of what makes a table.
COMMITS = {"method": "POST", "path": r"^/v1/namespaces/kafka/tables"}


class Catalog:
    """The catalog, and what brokers and PyIceberg are told of it and of the store."""

    def __init__(self, directory, store: dict[str, str], behind: dict[str, str], **pyiceberg: str):
        directory.mkdir(parents=True)
        self.rest = IcebergRest({"catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog", "jdbc.schema-version": "V1", "clients": "1",
                                 "uri": f"jdbc:sqlite:{directory}/catalog.db", **behind})
        self.config = store | {"ottla.lake.catalog": "rest", "ottla.lake.rest.uri": self.rest.url, "ottla.lake.database": "kafka",
                               "ottla.lake.rest.token": TOKEN}
        self._settings = {"type": "rest", "uri": self.rest.url, "token": TOKEN, **pyiceberg}

    def table(self, name: str) -> InRest:
        return InRest(tuple(self._settings.items()), "kafka", name)


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog(tmp_path / "catalog", {}, {"warehouse": f"file://{tmp_path}/bucket/lake"})
    yield catalog
    catalog.rest.end()


def rows_in(table: InRest) -> int:
    loaded = table.load()
    return loaded.scan().count() if loaded else 0


def wait_for_rows(broker: Broker, topic: str, table: InRest, count: int, timeout_s: float = 90) -> None:
    wait_until(lambda: rows_in(table) >= count, timeout_s, f"{count} rows in {table.name}", poll_s=0.5)
    wait_until(lambda: metric(broker, "lag_records", topic) == 0, 60, "no lag")


def check(table: InRest, count: int, duckdb) -> None:
    expected = engines.totals([row(number) for number in range(count)], list(COLUMNS))
    for engine in (engines.PyIceberg(), duckdb):
        assert engine.totals(table, COLUMNS) == expected, engine.name


def test_rows_columns_and_what_others_write(start, catalog, duckdb):
    broker = start(catalog.config)
    # PyIceberg writes no days without one more package.
    create(broker, "Stock.Rows", partition="none")
    table, quarantine = catalog.table("stock_rows"), catalog.table("stock_rows__quarantine")
    # At first there is nothing but what no row can hold.
    send(broker, "Stock.Rows", [b"not JSON"])
    wait_until(lambda: rows_in(quarantine) == 1 and table.load(), 60, "the quarantine, and an empty table", poll_s=0.5)
    wait_until(lambda: metric(broker, "lag_records", "Stock.Rows") == 0, 30, "no lag")
    for engine in (engines.PyIceberg(), duckdb):
        assert engine.totals(table, {})["rows"] == 0, engine.name
    assert table.load().current_snapshot().summary["total-records"] == "0"
    send(broker, "Stock.Rows", [value(number) for number in range(1000)])
    wait_for_rows(broker, "Stock.Rows", table, 1000)
    check(table, 1000, duckdb)

    # Somebody sets a property, adds a column, and appends rows.
    with table.load().transaction() as transaction:
        transaction.set_properties(owner="analysts")
    loaded = table.load()
    with loaded.update_schema() as update:
        from pyiceberg.types import StringType
        update.add_column("remark", StringType())
    send(broker, "Stock.Rows", [value(number) for number in range(1000, 1500)])
    wait_for_rows(broker, "Stock.Rows", table, 1500)
    loaded = table.load()
    one = loaded.scan(limit=1).to_arrow()
    foreign = pyarrow.Table.from_pylist([{"kafka_partition": 99, "kafka_offset": 0, "remark": "theirs"}], schema=one.schema)
    loaded.append(foreign)
    # A broker that is started anew goes on from what the catalog says; a column comes with the later records.
    broker.stop()
    broker.start()
    later = [json.loads(value(number)) | {"CloseUSD": number / 8} for number in range(1500, 2000)]
    send(broker, "Stock.Rows", [json.dumps(one).encode() for one in later])
    wait_for_rows(broker, "Stock.Rows", table, 2001)
    loaded = table.load()
    assert loaded.properties["owner"] == "analysts"
    rows = loaded.scan().to_arrow().to_pylist()
    assert [one["remark"] for one in rows if one["kafka_partition"] == 99] == ["theirs"]
    ours = [one for one in rows if one["kafka_partition"] != 99]
    assert sorted(one["id"] for one in ours) == list(range(2000))
    assert {one["id"]: one["close_usd"] for one in ours if one["close_usd"]} == {number: number / 8 for number in range(1500, 2000)}
    assert duckdb.totals(table, {})["rows"] == 2001
    # The catalog made each file of metadata, and its ids are those of the files.
    assert "/lake/kafka/stock_rows/metadata/" in table.metadata_location()

    command = [environment.ottla_binary(), "lake", "-b", broker.bootstrap]
    refused = run([*map(str, command), "status", "--json"], check=False)
    assert refused.code == 1 and "401" in refused.stderr and TOKEN not in refused.stderr
    said = run([*map(str, command), "--override", f"ottla.lake.rest.token={TOKEN}", "status", "--json"])
    [status] = [json.loads(line) for line in said.lines]
    assert (status["rows"], status["lag_records"], status["quarantined"]) == (2001, 0, 1)
    assert TOKEN not in broker.log()


# Files are joined from the sixteenth commit on, of which there is one in five seconds at most.
@pytest.mark.timeout(600)
def test_every_record_once_while_answers_are_lost_brokers_killed_and_files_joined(start, catalog, duckdb):
    broker = start(catalog.config | {"ottla.lake.rest.request.timeout.ms": "4000", "ottla.lake.rest.retries": "1"})
    create(broker, "rows", partition="none")
    table = catalog.table("rows")
    chance = random.Random(20261121)
    catalog.rest.faults(
        {"kind": "lose", "every": 4, **COMMITS},
        {"kind": "fail", "every": 5, **COMMITS},
        {"kind": "cut", "every": 6, **COMMITS},
        {"kind": "refuse", "status": 503, "code": "SlowDownException", "every": 7, **COMMITS},
        # Given up by then; it is done all the same.
        {"kind": "slow", "seconds": 5, "every": 9, **COMMITS},
        {"kind": "refuse", "status": 429, "code": "TooManyRequestsException", "every": 11},
        {"kind": "drop", "method": "GET", "every": 13},
    )
    load = Steady(broker, ["rows"])
    joined, killed, ends = 0.0, 0, time.monotonic() + 360
    while joined == 0 or killed < 3:
        assert time.monotonic() < ends, f"no compaction, {killed} kills"
        time.sleep(chance.uniform(1, 4))
        # More and more seldom, so that there is time for a compaction.
        if chance.random() < 0.5 / (killed + 1):
            broker.kill()
            broker.start()
            killed += 1
        joined = max(joined, metric(broker, "joined_files_total", "rows"))
    count = load.end()["rows"]
    met = catalog.rest.faults()
    wait_for_rows(broker, "rows", table, count, 120)
    check(table, count, duckdb)
    assert all(rule["came_true"] for rule in met), met


def test_committers_of_two_clusters_share_a_table(start, catalog, duckdb, tmp_path):
    """Each has one committer, who knows nothing of the other; both add columns."""
    other = Broker("ottla", tmp_path / "other", {"ottla.tier.url": f"file://{tmp_path}/bucket", **catalog.config})
    brokers = [start(catalog.config), other]
    try:
        other.start()
        catalog.rest.faults({"kind": "lose", "every": 5, **COMMITS}, {"kind": "late", "seconds": 1, "every": 2, **COMMITS})
        table = catalog.table("shared")
        loads = []
        for broker, topic in zip(brokers, ("one", "two")):
            create(broker, topic, table="shared", partition="none")
            loads.append(Steady(broker, [topic]))
        wait_until(lambda: all(metric(broker, "commits_total", topic) >= 4 for broker, topic in zip(brokers, ("one", "two"))), 120,
                   "commits of both")
        counts = [load.end()[topic] for load, topic in zip(loads, ("one", "two"))]
        for broker, topic in zip(brokers, ("one", "two")):
            wait_until(lambda: metric(broker, "lag_records", topic) == 0, 90, "no lag")
        wait_until(lambda: rows_in(table) >= sum(counts), 60, "all rows", poll_s=0.5)
        expected = sorted([*range(counts[0]), *range(counts[1])])
        assert sorted(duckdb.values(table, "id")) == expected
        assert sorted(engines.PyIceberg().values(table, "id")) == expected
    finally:
        other.end()


def test_a_bucket_with_tokens_that_are_given_for_credentials(start, aws, tmp_path, duckdb):
    store = {"ottla.tier.url": "s3://lake/ottla", "ottla.tier.s3.endpoint": aws.url, "ottla.tier.s3.region": engines.REGION}
    s3 = {"s3.endpoint": aws.url, "s3.access-key-id": engines.ACCESS_KEY, "s3.secret-access-key": engines.SECRET_KEY}
    behind = {"io-impl": "org.apache.iceberg.aws.s3.S3FileIO", "warehouse": "s3://lake/ottla/lake", "s3.path-style-access": "true",
              "client.region": engines.REGION, **s3}
    catalog = Catalog(tmp_path / "catalog", store, behind, **s3, **{"s3.region": engines.REGION})
    try:
        config = {key: value for key, value in catalog.config.items() if key != "ottla.lake.rest.token"}
        broker = start(config | {"ottla.lake.rest.credential": "ottla:secret"})
        create(broker, "rows")
        send(broker, "rows", [value(number) for number in range(700)])
        table = catalog.table("rows")
        wait_for_rows(broker, "rows", table, 700)
        expected = engines.totals([row(number) for number in range(700)], list(COLUMNS))
        assert engines.PyIceberg().totals(table, COLUMNS) == expected
        location = table.metadata_location()
        assert location.startswith("s3://lake/ottla/lake/kafka/rows/metadata/")

        class Named(InGlue):
            def metadata_location(self) -> str:
                return location

        assert duckdb.totals(Named(aws.url, "kafka", "rows"), COLUMNS) == expected
    finally:
        catalog.rest.end()


def test_what_a_catalog_does_not_give_is_said(start, catalog):
    broker = start(catalog.config | {"ottla.lake.rest.token": "not-this-one"})
    create(broker, "rows")
    send(broker, "rows", [value(1)])
    wait_until(lambda: "NotAuthorizedException" in broker.log(), 30, "the log says why")
    assert metric(broker, "errors_total", "rows") > 0
    assert TOKEN not in broker.log() and "not-this-one" not in broker.log()
