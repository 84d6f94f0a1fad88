"""Topics with tables in a bucket, with Glue as their catalog: what the entries in it say, as Athena reads them, and that engines and
others who write there get along with the broker that commits."""

import json

import boto3

import engines
from engines import InGlue
from harness.process import wait_until
from topics import COLUMNS, create, in_glue, metric, row, send

COUNT, MORE = 3000, 1500
ALL_COLUMNS = COLUMNS | {"close_usd": "number"}


def full_value(number: int) -> bytes:
    """A value of each kind that a table has a type for; one member comes only with the later records."""
    value = {"Id": number, "Adj Close": number + 0.25, "Index": "HSI" if number % 2 else "NYA", "Flag": number % 3 == 0,
             "Date": f"2026-01-{number % 28 + 1:02}", "On": f"2026-11-21T08:00:{number % 60:02}Z",
             "Details": {"Source Name": f"s{number}", "rank": number}, "Tags": [number, number + 1]}
    return json.dumps(value | ({"CloseUSD": number / 8} if number >= COUNT else {})).encode()


def rows(count: int) -> list[dict]:
    return [row(number) | {"close_usd": number / 8 if number >= COUNT else None} for number in range(count)]


def client(aws, service: str):
    return boto3.client(service, endpoint_url=aws.url, region_name=engines.REGION)


def wait_for_rows(broker, topic: str, table: InGlue, count: int) -> None:
    pyiceberg = engines.PyIceberg()
    wait_until(lambda: table.entry() and pyiceberg.scan(table).count() >= count, 90, f"{count} rows in {table.name}", poll_s=0.5)
    wait_until(lambda: metric(broker, "lag_records", topic) == 0, 30, "no lag")


def test_engines_agree_on_a_table_that_glue_names(start, aws):
    broker = start(in_glue(aws))
    create(broker, "Stock.Rows")
    table = InGlue(aws.url, "kafka", "stock_rows")
    quarantined = [b"not JSON", b"[1]"]
    send(broker, "Stock.Rows", [full_value(number) for number in range(COUNT)] + quarantined)
    wait_for_rows(broker, "Stock.Rows", table, COUNT)
    first = table.entry()
    send(broker, "Stock.Rows", [full_value(number) for number in range(COUNT, COUNT + MORE)])
    wait_for_rows(broker, "Stock.Rows", table, COUNT + MORE)
    expected = engines.totals(rows(COUNT + MORE), list(ALL_COLUMNS))
    for make in (engines.PyIceberg, engines.DuckDb, engines.ChDb):
        engine = make()
        try:
            assert engine.totals(table, ALL_COLUMNS) == expected, engine.name
            assert engine.filtered(table, "id", COUNT) == MORE, engine.name
            quarantine = InGlue(aws.url, "kafka", "stock_rows__quarantine")
            assert sorted(engine.values(quarantine, "value")) == sorted(value.decode() for value in quarantined), engine.name
        finally:
            engine.close()
    check_entry(aws, first, table.entry())


def check_entry(aws, first: dict, now: dict) -> None:
    """What Athena goes by, which never lists the bucket."""
    folder = "s3://lake/ottla/lake/kafka/stock_rows"
    assert (now["DatabaseName"], now["TableType"]) == ("kafka", "EXTERNAL_TABLE")
    parameters = now["Parameters"]
    assert parameters["table_type"] == "ICEBERG"
    assert parameters["previous_metadata_location"].startswith(f"{folder}/metadata/")
    assert parameters["metadata_location"] not in (parameters["previous_metadata_location"], first["Parameters"]["metadata_location"])
    key = parameters["metadata_location"].removeprefix("s3://lake/")
    metadata = json.load(client(aws, "s3").get_object(Bucket="lake", Key=key)["Body"])
    assert (metadata["format-version"], metadata["location"]) == (2, folder)
    assert now["StorageDescriptor"]["Location"] == folder and not now.get("PartitionKeys")
    columns = {
        "kafka_partition": "int", "kafka_offset": "bigint", "kafka_timestamp": "timestamp", "kafka_key": "string",
        "kafka_key_raw": "binary", "kafka_headers": "map<string,string>",
        "id": "bigint", "adj_close": "double", "index": "string", "flag": "boolean", "date": "date", "on": "timestamp",
        "details": "struct<source_name:string,rank:bigint>", "tags": "array<bigint>",
    }
    said = {column["Name"]: column["Type"] for column in first["StorageDescriptor"]["Columns"]}
    assert {name: said.get(name) for name in columns} == columns
    # A column is in the catalog with the commit that brings its first value.
    later = {column["Name"]: column["Type"] for column in now["StorageDescriptor"]["Columns"]}
    assert "close_usd" not in said and later == said | {"close_usd": "double"}


def test_what_others_write_to_the_entry_and_the_table_stays(start, aws, duckdb):
    broker = start(in_glue(aws))
    # PyIceberg writes no days without one more package.
    create(broker, "shared", partition="none")
    table = InGlue(aws.url, "kafka", "shared")
    send(broker, "shared", [full_value(number) for number in range(600)])
    wait_for_rows(broker, "shared", table, 600)
    # Somebody describes the table in the console, and somebody else deletes rows with another program.
    entry = table.entry()
    entry["Parameters"]["classification"] = "team-a"
    entry["StorageDescriptor"]["Columns"][1]["Comment"] = "where it is"
    wanted = {key: entry[key] for key in ("Name", "TableType", "Parameters", "StorageDescriptor")}
    client(aws, "glue").update_table(DatabaseName="kafka", TableInput=wanted)
    send(broker, "shared", [full_value(number) for number in range(600, 900)])
    wait_for_rows(broker, "shared", table, 900)
    said = table.entry()
    assert said["Parameters"]["classification"] == "team-a"
    assert said["StorageDescriptor"]["Columns"][1]["Comment"] == "where it is"
    engines.PyIceberg().table(table).delete("id < 100")
    send(broker, "shared", [full_value(number) for number in range(900, 1200)])
    wait_for_rows(broker, "shared", table, 1100)
    assert duckdb.totals(table, COLUMNS) == engines.totals([row(number) for number in range(100, 1200)], list(COLUMNS))


def test_a_name_that_is_taken_is_left_alone(start, aws):
    broker = start(in_glue(aws))
    glue = client(aws, "glue")
    glue.create_database(DatabaseInput={"Name": "kafka"})
    glue.create_table(DatabaseName="kafka", TableInput={"Name": "taken", "Parameters": {"classification": "csv"}})
    create(broker, "taken")
    send(broker, "taken", [full_value(1)])
    wait_until(lambda: "is there and is no Iceberg table" in broker.log(), 30, "the log says why")
    assert metric(broker, "errors_total", "taken") > 0
    assert glue.get_table(DatabaseName="kafka", Name="taken")["Table"]["Parameters"] == {"classification": "csv"}
