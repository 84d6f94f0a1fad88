"""Trino, the engine that Athena is made of, as a server of its own on this machine, asked by its REST interface.

Of the registry's versions for Java 17 there is no whole server. The newest with the Iceberg connector is 406, and so it reads
tables as Athena does, by what Glue says of them. The last for Java 17, 435, comes with the Hive connector: it reads the table's live files
as a Hive table that links to them (SymlinkTextInputFormat).

`tests/setup.sh --with-trino` installs both; they are no part of the tests that always run.
"""

import itertools
import json
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from engines import ACCESS_KEY, REGION, SECRET_KEY, InGlue, PyIceberg, Sql
from harness import environment
from harness.ports import free_port
from harness.process import Process, wait_until

HEAP = "-Xmx1500M"
START_S = 180
QUERY_S = 300
CATALOG = "lake"


class Trino(Sql):
    distinct = "count(DISTINCT ROW(kafka_partition, kafka_offset))"
    version: str
    connector: str
    # What keys of S3 begin with.
    s3: str
    # What the connector is told beside where S3 and Glue are.
    properties: dict[str, str]

    def __init__(self, endpoint: str):
        """`endpoint`: of S3 and Glue. It is not waited for."""
        self.name = f"Trino {self.version} ({self.connector})"
        installed = environment.ENVIRONMENT / "trino" / self.version
        environment.program("java")
        if not (installed / "plugin").exists():
            environment.missing(f"Trino {self.version} (tests/setup.sh --with-trino)")
        self._directory = Path(tempfile.mkdtemp(prefix="ottla-trino-"))
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._write("config.properties", {
            "coordinator": "true",
            "node-scheduler.include-coordinator": "true",
            "http-server.http.port": port,
            "discovery.uri": self._url,
            "node.environment": "test",
            "plugin.dir": installed / "plugin",
            "catalog.config-dir": self._directory / "catalog",
        })
        self._write(f"catalog/{CATALOG}.properties", {
            "connector.name": self.connector,
            "hive.metastore.glue.endpoint-url": endpoint,
            "hive.metastore.glue.region": REGION,
            "hive.metastore.glue.aws-access-key": ACCESS_KEY,
            "hive.metastore.glue.aws-secret-key": SECRET_KEY,
            f"{self.s3}.endpoint": endpoint,
            f"{self.s3}.path-style-access": "true",
            f"{self.s3}.aws-access-key": ACCESS_KEY,
            f"{self.s3}.aws-secret-key": SECRET_KEY,
            **self.properties,
        })
        program = Path(__file__).with_name("TrinoServer.java")
        self._process = Process(
            ["java", HEAP, "-Djdk.attach.allowAttachSelf=true", f"-Dconfig={self._directory / 'config.properties'}",
             "-cp", f"{installed}/lib/*", str(program), self.version], cwd=self._directory)

    def close(self) -> None:
        self._process.end()
        shutil.rmtree(self._directory, ignore_errors=True)

    def query(self, sql: str) -> list[list]:
        wait_until(self._is_up, START_S, f"{self.name} is up", poll_s=0.5)
        deadline = time.monotonic() + QUERY_S
        answer = self._call(f"{self._url}/v1/statement", sql.encode())
        rows = list(answer.get("data", []))
        # Each answer comes when there is more to say, or after a second.
        while "nextUri" in answer:
            assert time.monotonic() < deadline, f"{self.name}: no answer in {QUERY_S} s\n{sql}"
            answer = self._call(answer["nextUri"])
            rows += answer.get("data", [])
        if "error" in answer:
            stack = json.dumps(answer["error"].get("failureInfo", {}).get("cause"))[:2000]
            raise AssertionError(f"{self.name}: {answer['error']['message']}\n{sql}\n{stack}")
        return rows

    def _write(self, name: str, values: dict) -> None:
        path = self._directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def _is_up(self) -> bool:
        assert self._process.running(), self._process.output()
        try:
            return not self._call(f"{self._url}/v1/info")["starting"]
        except (urllib.error.URLError, ConnectionError):
            return False

    @staticmethod
    def _call(url: str, body: bytes | None = None) -> dict:
        request = urllib.request.Request(url, body, headers={"X-Trino-User": "tests"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def _rows(self, table: InGlue, what: str, where: str = "") -> list:
        return self.query(f"SELECT {what} FROM {self._source(table)} {where}")

    def _source(self, table: InGlue) -> str:
        raise NotImplementedError


class TrinoIceberg(Trino):
    version, connector, s3 = "406", "iceberg", "hive.s3"
    properties = {"iceberg.catalog.type": "glue"}

    def _source(self, table: InGlue) -> str:
        return f'{CATALOG}.{table.database}."{table.name}"'


class TrinoHive(Trino):
    version, connector, s3 = "435", "hive", "s3"
    # Hadoop's way to S3 would take files that only the whole server has.
    properties = {"hive.metastore": "glue", "fs.hadoop.enabled": "false", "fs.native-s3.enabled": "true", "s3.region": REGION,
                  # moto has none.
                  "hive.table-statistics-enabled": "false"}
    _numbers = itertools.count(1)

    def _source(self, table: InGlue) -> str:
        """A Hive table of the files that are live now."""
        import boto3

        access = {"endpoint_url": table.endpoint, "region_name": REGION, "aws_access_key_id": ACCESS_KEY,
                  "aws_secret_access_key": SECRET_KEY}
        s3, glue = boto3.client("s3", **access), boto3.client("glue", **access)
        entry, name = table.entry(), f"{table.name}_files_{next(self._numbers)}"
        bucket = entry["StorageDescriptor"]["Location"].removeprefix("s3://").split("/")[0]
        files = [one.file.file_path for one in PyIceberg().scan(table).plan_files()]
        s3.put_object(Bucket=bucket, Key=f"links/{name}/files", Body="".join(f"{file}\n" for file in files).encode())
        glue.create_table(DatabaseName=table.database, TableInput={
            "Name": name,
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"EXTERNAL": "TRUE"},
            "PartitionKeys": [],
            "StorageDescriptor": {
                "Columns": [{key: column[key] for key in ("Name", "Type")} for column in entry["StorageDescriptor"]["Columns"]],
                "Location": f"s3://{bucket}/links/{name}",
                "InputFormat": "org.apache.hadoop.hive.ql.io.SymlinkTextInputFormat",
                "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
                # What Amazon says where nothing was said; moto says nothing, and Trino falls over it.
                "NumberOfBuckets": 0,
                "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"},
            },
        })
        return f'{CATALOG}.{table.database}."{name}"'
