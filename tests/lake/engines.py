"""Engines that read Iceberg tables, each by its own code, and what is asked of all of them.

A table is a `Path`, its folder in a directory, where an engine finds the newest state by `metadata/version-hint.text`: no catalog,
no service, and nothing of Ottla's. Or it is `InGlue`, in a bucket, or `InRest`: the catalog says what its newest state is.
"""

import glob
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal
from pathlib import Path

from harness import environment

# Of the columns kafka_partition and kafka_offset, which are in every table.
DISTINCT = "distinct records"
REGION = "us-east-1"
# Any do: of the services of tests/support/aws.py.
ACCESS_KEY = SECRET_KEY = "any"
# Sums of doubles depend on the order of the rows; those of decimals do not. No double of the tests has more digits than these.
DIGITS, SCALE = 38, 16
_EXACT = Context(prec=100)


@dataclass(frozen=True)
class InGlue:
    """S3 and Glue are both at `endpoint`."""

    endpoint: str
    database: str
    name: str

    def entry(self) -> dict | None:
        """What the catalog says of the table."""
        import boto3

        glue = boto3.client("glue", endpoint_url=self.endpoint, region_name=REGION,
                            aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY)
        try:
            return glue.get_table(DatabaseName=self.database, Name=self.name)["Table"]
        except glue.exceptions.EntityNotFoundException:
            return None

    def metadata_location(self) -> str:
        return self.entry()["Parameters"]["metadata_location"]


@dataclass(frozen=True)
class InRest:
    """`settings` are what PyIceberg is told of the catalog and the store."""

    settings: tuple[tuple[str, str], ...]
    database: str
    name: str

    def load(self):
        """None: there is no such table."""
        from pyiceberg.catalog import load_catalog
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return load_catalog("rest", **dict(self.settings)).load_table((self.database, self.name))
        except NoSuchTableError:
            return None

    def metadata_location(self) -> str:
        return self.load().metadata_location


Table = Path | InGlue | InRest


def totals(rows: list[dict], columns: list[str]) -> dict:
    """What `Engine.totals` says of a table that has these rows."""
    found = {"rows": len(rows), DISTINCT: len(rows)}
    for column in columns:
        values = [row[column] for row in rows if row.get(column) is not None]
        found[f"count {column}"] = len(values)
        if values and not isinstance(values[0], str):
            found[f"sum {column}"] = sum(values)
        found[f"min {column}"] = min(values, default=None)
        found[f"max {column}"] = max(values, default=None)
    return found


def exact_sum(values: Iterable[tuple[float, int]]) -> Decimal:
    """Of doubles and how often each comes, by the shortest text that means that double."""
    total = Decimal(0)
    for value, times in values:
        total = _EXACT.add(total, _EXACT.multiply(Decimal(repr(float(value))), times))
    return total


class PyIceberg:
    name = "PyIceberg"

    def totals(self, table: Table, columns: dict[str, str]) -> dict:
        import pyarrow.compute as compute

        rows = self._read(table)
        found = {"rows": rows.num_rows, DISTINCT: self._distinct(rows)}
        for column, kind in columns.items():
            values = rows.column(column)
            found[f"count {column}"] = compute.count(values).as_py()
            if kind == "number":
                found[f"sum {column}"] = compute.sum(values).as_py()
            found[f"min {column}"], found[f"max {column}"] = compute.min_max(values).as_py().values()
        return found

    def exact_sums(self, table: Table, columns: list[str]) -> dict:
        rows = self._read(table)
        found = {"rows": rows.num_rows, DISTINCT: self._distinct(rows)}
        for column in columns:
            counted = rows.column(column).drop_null().value_counts().to_pylist()
            found[f"sum {column}"] = exact_sum((one["values"], one["counts"]) for one in counted)
        return found

    def values(self, table: Table, column: str) -> list:
        return self._read(table).column(column).to_pylist()

    def filtered(self, table: Table, column: str, at_least: float) -> int:
        return len(self.scan(table, row_filter=f"{column} >= {at_least}").to_arrow())

    def scan(self, table: Table, **arguments):
        return self.table(table).scan(**arguments)

    def close(self) -> None:
        pass

    @staticmethod
    def _distinct(rows) -> int:
        places = ["kafka_partition", "kafka_offset"]
        return rows.select(places).group_by(places).aggregate([]).num_rows

    def table(self, table: Table):
        try:
            from pyiceberg.catalog import load_catalog
            from pyiceberg.table import StaticTable
        except ImportError:
            environment.missing("PyIceberg")
        if isinstance(table, Path):
            return StaticTable.from_metadata(str(table))
        if isinstance(table, InRest):
            return table.load()
        catalog = load_catalog("glue", **{
            "type": "glue", "glue.endpoint": table.endpoint, "glue.region": REGION,
            "glue.access-key-id": ACCESS_KEY, "glue.secret-access-key": SECRET_KEY,
            "s3.endpoint": table.endpoint, "s3.region": REGION,
            "s3.access-key-id": ACCESS_KEY, "s3.secret-access-key": SECRET_KEY,
        })
        return catalog.load_table((table.database, table.name))

    def _read(self, table: Table):
        return self.scan(table).to_arrow()


class Sql:
    """Engines that are asked in SQL: how they name the table, and what they have words of their own for."""

    distinct = "count(DISTINCT (kafka_partition, kafka_offset))"

    def totals(self, table: Table, columns: dict[str, str]) -> dict:
        parts = {"rows": "count(*)", DISTINCT: self.distinct}
        for column, kind in columns.items():
            parts[f"count {column}"] = f"count({column})"
            if kind == "number":
                parts[f"sum {column}"] = f"sum({column})"
            parts[f"min {column}"], parts[f"max {column}"] = f"min({column})", f"max({column})"
        return dict(zip(parts, self._rows(table, ", ".join(parts.values()))[0]))

    def exact_sums(self, table: Table, columns: list[str]) -> dict:
        parts = {"rows": "count(*)", DISTINCT: self.distinct}
        # As text, since not every engine hands decimals over as they are.
        parts |= {f"sum {column}": f"CAST(sum({self._decimal(column)}) AS VARCHAR)" for column in columns}
        rows, distinct, *sums = self._rows(table, ", ".join(parts.values()))[0]
        return dict(zip(parts, [int(rows), int(distinct), *map(Decimal, sums)]))

    def values(self, table: Table, column: str) -> list:
        return [row[0] for row in self._rows(table, column)]

    def filtered(self, table: Table, column: str, at_least: float) -> int:
        return self._rows(table, "count(*)", f"WHERE {column} >= {at_least}")[0][0]

    def _decimal(self, column: str) -> str:
        """A double as a decimal, by the shortest text that means it."""
        return f"CAST(CAST({column} AS VARCHAR) AS DECIMAL({DIGITS}, {SCALE}))"

    def _rows(self, table: Table, what: str, where: str = "") -> list:
        raise NotImplementedError


class DuckDb(Sql):
    """With the extensions from PyPI, which need no network when they are loaded."""

    name = "DuckDB"

    def __init__(self):
        try:
            import duckdb
        except ImportError:
            environment.missing("DuckDB")
        self._connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        for name in ("avro", "httpfs", "iceberg"):
            self._connection.execute(f"LOAD '{self._extension(name)}'")

    @staticmethod
    def _extension(name: str) -> str:
        try:
            module = __import__(f"duckdb_extension_{name}")
        except ImportError:
            environment.missing(f"duckdb-extension-{name}")
        found = glob.glob(os.path.join(os.path.dirname(module.__file__), "**", f"{name}.duckdb_extension"), recursive=True)
        assert len(found) == 1, found
        return found[0]

    def ask(self, query: str) -> list[tuple]:
        return self._connection.execute(query).fetchall()

    def close(self) -> None:
        self._connection.close()

    def _rows(self, table: Table, what: str, where: str = "") -> list:
        if isinstance(table, InGlue):
            endpoint = table.endpoint.removeprefix("http://")
            self._connection.execute(
                f"CREATE OR REPLACE SECRET (TYPE s3, KEY_ID '{ACCESS_KEY}', SECRET '{SECRET_KEY}', REGION '{REGION}', "
                f"ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false)")
            table = table.metadata_location()
        if isinstance(table, InRest):
            table = table.metadata_location().removeprefix("file://")
        return self._connection.execute(f"SELECT {what} FROM iceberg_scan('{table}') {where}").fetchall()


class ChDb(Sql):
    """ClickHouse in a Python module, in an environment of its own: it is larger than all the others together."""

    name = "chDB"
    distinct = "uniqExact((kafka_partition, kafka_offset))"

    def __init__(self):
        self._python = environment.ENVIRONMENT / "python-chdb" / "bin" / "python"
        if not self._python.exists():
            environment.missing("chDB")

    def close(self) -> None:
        pass

    def _decimal(self, column: str) -> str:
        return f"toDecimal128(toString({column}), {SCALE})"

    def _rows(self, table: Table, what: str, where: str = "") -> list:
        if isinstance(table, InGlue):
            location, _, metadata = table.metadata_location().removeprefix("s3://").rpartition("/metadata/")
            newest = f"SETTINGS iceberg_metadata_file_path = 'metadata/{metadata}'"
            source = f"icebergS3('{table.endpoint}/{location}/', '{ACCESS_KEY}', '{SECRET_KEY}', {newest})"
        else:
            source = f"icebergLocal('{table}/')"
        query = f"SELECT {what} FROM {source} {where} SETTINGS output_format_json_quote_64bit_integers = 0"
        program = "import chdb, sys; print(chdb.query(sys.argv[1], 'JSONCompactEachRow'), end='')"
        # It reads files below its working directory only.
        directory = table if isinstance(table, Path) else None
        ran = subprocess.run([self._python, "-c", program, query], cwd=directory, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return [json.loads(line) for line in ran.stdout.splitlines()]
