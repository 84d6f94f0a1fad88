"""Engines that read Iceberg tables, each by its own code, and what is asked of all of them.

Each is given the folder of a table in a directory and finds the newest state by `metadata/version-hint.text`: no catalog, no
service, and nothing of Ottla's.
"""

import glob
import json
import os
import subprocess
from pathlib import Path

from harness import environment

# Of the columns kafka_partition and kafka_offset, which are in every table.
DISTINCT = "distinct records"


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


class PyIceberg:
    def totals(self, table: Path, columns: dict[str, str]) -> dict:
        import pyarrow.compute as compute

        rows = self._read(table)
        pairs = {(row["kafka_partition"], row["kafka_offset"])
                 for row in rows.select(["kafka_partition", "kafka_offset"]).to_pylist()}
        found = {"rows": rows.num_rows, DISTINCT: len(pairs)}
        for column, kind in columns.items():
            values = rows.column(column)
            found[f"count {column}"] = compute.count(values).as_py()
            if kind == "number":
                found[f"sum {column}"] = compute.sum(values).as_py()
            found[f"min {column}"], found[f"max {column}"] = compute.min_max(values).as_py().values()
        return found

    def values(self, table: Path, column: str) -> list:
        return self._read(table).column(column).to_pylist()

    def filtered(self, table: Path, column: str, at_least: float) -> int:
        return len(self._scan(table, row_filter=f"{column} >= {at_least}").to_arrow())

    def close(self) -> None:
        pass

    def _scan(self, table: Path, **arguments):
        try:
            from pyiceberg.table import StaticTable
        except ImportError:
            environment.missing("PyIceberg")
        return StaticTable.from_metadata(str(table)).scan(**arguments)

    def _read(self, table: Path):
        return self._scan(table).to_arrow()


def _select(columns: dict[str, str], distinct: str, source: str) -> str:
    parts = ["count(*)", distinct]
    for column, kind in columns.items():
        parts += [f"count({column})"] + ([f"sum({column})"] if kind == "number" else [])
        parts += [f"min({column})", f"max({column})"]
    return f"SELECT {', '.join(parts)} FROM {source}"


def _names(columns: dict[str, str]) -> list[str]:
    names = ["rows", DISTINCT]
    for column, kind in columns.items():
        names += [f"count {column}"] + ([f"sum {column}"] if kind == "number" else [])
        names += [f"min {column}", f"max {column}"]
    return names


class DuckDb:
    """With the extensions from PyPI, which need no network when they are loaded."""

    def __init__(self):
        try:
            import duckdb
        except ImportError:
            environment.missing("DuckDB")
        self._connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        for name in ("avro", "iceberg"):
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

    def totals(self, table: Path, columns: dict[str, str]) -> dict:
        query = _select(columns, "count(DISTINCT (kafka_partition, kafka_offset))", f"iceberg_scan('{table}')")
        return dict(zip(_names(columns), self._connection.execute(query).fetchone()))

    def values(self, table: Path, column: str) -> list:
        return [row[0] for row in self._connection.execute(f"SELECT {column} FROM iceberg_scan('{table}')").fetchall()]

    def filtered(self, table: Path, column: str, at_least: float) -> int:
        query = f"SELECT count(*) FROM iceberg_scan('{table}') WHERE {column} >= {at_least}"
        return self._connection.execute(query).fetchone()[0]

    def close(self) -> None:
        self._connection.close()


class ChDb:
    """ClickHouse in a Python module, in an environment of its own: it is larger than all the others together."""

    def __init__(self):
        self._python = environment.ENVIRONMENT / "python-chdb" / "bin" / "python"
        if not self._python.exists():
            environment.missing("chDB")

    def totals(self, table: Path, columns: dict[str, str]) -> dict:
        query = _select(columns, "uniqExact((kafka_partition, kafka_offset))", f"icebergLocal('{table}/')")
        return dict(zip(_names(columns), self._rows(table, query)[0]))

    def values(self, table: Path, column: str) -> list:
        return [row[0] for row in self._rows(table, f"SELECT {column} FROM icebergLocal('{table}/')")]

    def filtered(self, table: Path, column: str, at_least: float) -> int:
        return self._rows(table, f"SELECT count() FROM icebergLocal('{table}/') WHERE {column} >= {at_least}")[0][0]

    def close(self) -> None:
        pass

    def _rows(self, table: Path, query: str) -> list:
        query += " SETTINGS output_format_json_quote_64bit_integers = 0"
        program = "import chdb, sys; print(chdb.query(sys.argv[1], 'JSONCompactEachRow'), end='')"
        # It reads files below its working directory only.
        ran = subprocess.run([self._python, "-c", program, query], cwd=table, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return [json.loads(line) for line in ran.stdout.splitlines()]
