"""`ottla lake query`: SQL by the engine within the binary agrees with DuckDB on the same table."""

import csv
import io
import json
import os
import time
from datetime import datetime, timezone

import pytest

from harness import environment
from harness.process import run, wait_until

DAY_MS = 86_400_000
DAYS = 4
# The broker takes no record of the future.
FIRST_MS = (int(time.time() * 1000) // DAY_MS - DAYS) * DAY_MS
COUNT = 1200


@pytest.fixture(scope="session")
def _with_engine():
    """Skips where the binary was built without, but for `make lake-query`."""
    refused = run([str(environment.ottla_binary()), "lake", "query", "SELECT 1", "-b", "127.0.0.1:1"], check=False)
    if "--features query" in refused.stderr:
        assert refused.code == 2, refused.report
        assert os.environ.get("OTTLA_TEST_QUERY") != "1", "the binary was built without the feature query"
        pytest.skip("this ottla was built without the feature query: make lake-query")


@pytest.fixture
def stocks(_with_engine, ottla):
    """A topic with rows of four days; the second half has a column that the first has not."""
    ottla("topics", "create", "stocks", "--partitions", "3", "--config", "ottla.lake.enable=true", "--config", "ottla.lake.lag.ms=5000")
    for half in (0, 1):
        produce(ottla, range(half * COUNT // 2, (half + 1) * COUNT // 2))
        wait_until(lambda: json.loads(ottla("lake", "status", "--json").lines[0])["lag_records"] == 0, 60, "no lag", poll_s=0.5)


def produce(ottla, numbers) -> None:
    def line(number: int) -> str:
        value = {"Index": ["HSI", "NYA", "N225"][number % 3], "Volume": number * 1_000_003, "Adj Close": number + 0.25}
        if number >= COUNT // 2:
            value["Note"] = f'say "{number}", twice' if number % 2 else ""
        return json.dumps({"key": str(number), "value": value, "timestamp": FIRST_MS + number * DAYS * DAY_MS // COUNT})

    ottla("produce", "stocks", "--format", "json", stdin="\n".join(map(line, numbers)) + "\n")


def asked(ottla, sql: str) -> list[dict]:
    return [json.loads(line) for line in ottla("lake", "query", "--format", "json", sql).lines]


def test_the_engine_within_agrees_with_duckdb(stocks, ottla, duckdb, broker):
    folder = broker.directory.parent / "bucket" / "lake" / "ottla" / "stocks"
    third_day = datetime.fromtimestamp((FIRST_MS + 2 * DAY_MS) / 1000, timezone.utc).isoformat()
    for sql in [
        "SELECT count(*) AS n, count(note) AS noted, sum(volume) AS v, min(adj_close) AS low, max(kafka_timestamp) IS NULL AS none FROM stocks",
        'SELECT "index", count(*) AS n, sum(adj_close) AS s FROM stocks GROUP BY 1 ORDER BY 1',
        "SELECT kafka_partition, count(DISTINCT kafka_offset) AS n FROM stocks GROUP BY 1 ORDER BY 1",
        f"SELECT count(*) AS n, sum(volume) AS v FROM stocks WHERE kafka_timestamp >= '{third_day}'",
        "SELECT volume, note FROM stocks WHERE volume > 1190 * 1000003 ORDER BY volume LIMIT 7",
        "SELECT count(*) AS n FROM stocks a JOIN stocks b ON a.volume = b.volume AND a.kafka_timestamp = b.kafka_timestamp",
        "SELECT count(*) AS n FROM stocks WHERE volume < 0",
    ]:
        rows = duckdb.ask(sql.replace("stocks", f"iceberg_scan('{folder}')"))
        ours = asked(ottla, sql)
        assert [tuple(row.values()) for row in ours] == [tuple(row) for row in rows], sql


def test_rows_are_printed_as_asked(stocks, ottla):
    sql = "SELECT volume, note, kafka_timestamp AS at FROM stocks WHERE kafka_key IN ('0', '600', '601') ORDER BY volume"
    table = ottla("lake", "query", sql).lines
    assert table[0].split() == ["volume", "note", "at"] and table[1].split()[:2] == ["0", "-"]
    assert table[3].split("  ")[1:2] == ['say "601", twice']
    rows = list(csv.reader(io.StringIO(ottla("lake", "query", "--format", "csv", sql).stdout)))
    assert [row[:2] for row in rows] == [["volume", "note"], ["0", ""], [str(600 * 1_000_003), ""], [str(601 * 1_000_003), 'say "601", twice']]
    assert [row["note"] for row in asked(ottla, sql)] == [None, "", 'say "601", twice']
    # More than are aligned at once, in order and complete.
    every = ottla("lake", "query", "SELECT volume FROM stocks ORDER BY volume").lines
    assert [int(line) for line in every[1:]] == [number * 1_000_003 for number in range(COUNT)]
    assert ottla("lake", "query", "SELECT volume FROM stocks WHERE volume < 0").lines == ["volume"]
    assert ["ottla", "ottla", "stocks"] in [line.split()[:3] for line in ottla("lake", "query", "SHOW TABLES").lines]


def test_what_cannot_be_asked_is_said(stocks, ottla):
    for sql, part in [
        ("SELECT nope FROM stocks", "nope"),
        ("SELECT 1 FROM nowhere", "there is no table nowhere; there are: stocks, stocks__quarantine"),
        ("SELECT 1 FROM stocks__quarantine", "has none yet"),
        ("DROP TABLE stocks", "not supported"),
        ("SELECT FROM WHERE", "ottla lake: "),
    ]:
        said = ottla("lake", "query", sql, code=1)
        assert part in said.stderr and said.stdout == "" and len(said.stderr.splitlines()) == 1, said.report
