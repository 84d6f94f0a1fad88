"""PyIceberg, DuckDB and ClickHouse read the tables, and all count what was written: before and after new columns came, small
files were joined, and records that are no rows went to the quarantine."""

import pytest

import engines

COLUMNS = {"id": "number", "adj_close": "number", "volume": "number", "index": "text", "close_usd": "number"}


def value(number: int) -> dict:
    """A row as it is sent; one column comes only with the 300th."""
    row = {"Id": number, "Index": "HSI" if number % 2 else "NYA", "Adj Close": number + 0.25, "Volume": number * 1_000_003,
           "Date": f"2026-01-{number % 28 + 1:02}", "On": f"2026-11-21T08:00:{number % 60:02}Z",
           "Details": {"Source Name": f"s{number}", "rank": number}, "Tags": [number, number + 1], "Flag": number % 3 == 0}
    return row | ({"CloseUSD": number / 8} if number >= 300 else {})


def row(number: int) -> dict:
    """The same as the table has it."""
    return {"id": number, "index": "HSI" if number % 2 else "NYA", "adj_close": number + 0.25, "volume": number * 1_000_003,
            "close_usd": number / 8 if number >= 300 else None}


def rows(count: int) -> list[dict]:
    return [row(number) for number in range(count)]


def test_counts_and_sums_agree_while_the_table_grows_and_is_compacted(writer, engine):
    written = 0
    for count, maintain in [(200, False), (600, False), (600, True), (700, False)]:
        said = writer.write("stocks", [value(number) for number in range(written, count)], 25, maintain)
        written = count
        assert ("joined_files: 24" in said) == maintain, said
        columns = COLUMNS if count > 300 else {name: kind for name, kind in COLUMNS.items() if name != "close_usd"}
        assert engine.totals(writer.table("stocks"), columns) == engines.totals(rows(count), list(columns))
        # By the bounds in manifests and files, which must not hide a row.
        assert engine.filtered(writer.table("stocks"), "id", count // 2) == count - count // 2


def test_every_row_is_there_by_value(writer, engine):
    writer.write("stocks", [value(number) for number in range(400)], 20, maintain=True)
    table = writer.table("stocks")
    assert sorted(engine.values(table, "id")) == list(range(400))
    assert sorted(engine.values(table, "kafka_key")) == sorted(f"key-{number}" for number in range(400))
    usd = [number for number in engine.values(table, "close_usd") if number is not None]
    assert sorted(usd) == [number / 8 for number in range(300, 400)]


def test_what_is_no_row_is_in_the_quarantine_with_all_of_its_payload(writer, engine):
    odd = ["not JSON", "[1, 2]", '{"id": 1, "id": 2}', "7", '"text"', "{\"id\": ", "null"]
    values = [odd[number // 10] if number % 10 == 5 and number < 70 else value(number) for number in range(100)]
    writer.write("stocks", values, 30)
    good = [row(number) for number in range(100) if not (number % 10 == 5 and number < 70)]
    columns = {"id": "number", "adj_close": "number"}
    assert engine.totals(writer.table("stocks"), columns) == engines.totals(good, list(columns))
    quarantine = writer.table("stocks__quarantine")
    assert sorted(engine.values(quarantine, "value")) == sorted(odd)
    assert all(engine.values(quarantine, "reason"))


def test_a_value_of_another_type_gets_a_column_of_its_own(writer, engine):
    writer.write("mixed", [{"price": 1}, {"price": 2.5}, {"price": "unknown"}, {"price": None}, {}], 1)
    table = writer.table("mixed")
    found = {}
    for column in ("price", "price_double", "price_str"):
        found[column] = sorted(value for value in engine.values(table, column) if value is not None)
    assert found == {"price": [1], "price_double": [2.5], "price_str": ["unknown"]}


@pytest.mark.parametrize("count", [1, 5000])
def test_one_row_and_many(writer, engine, count):
    writer.write("stocks", [value(number) for number in range(count)], 5000)
    columns = {"id": "number"}
    assert engine.totals(writer.table("stocks"), columns) == engines.totals(rows(count), ["id"])
