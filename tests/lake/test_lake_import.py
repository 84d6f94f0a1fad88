"""`ottla lake import`: files become records once, also when it is killed at any moment and run again."""

import gzip
import json
import os

import boto3
import engines

from harness import environment
from harness.process import Process, wait_until

COUNT = 60_000


def create(ottla, topic: str, *configs: str, partitions: int = 3) -> None:
    options = [option for config in configs for option in ("--config", config)]
    ottla("topics", "create", topic, "--partitions", str(partitions), *options)


def records(ottla, topic: str) -> list[dict]:
    return [json.loads(line) for line in ottla("consume", topic, "--format", "json").lines]


def origin(record: dict) -> str:
    [header] = record["headers"]
    assert header["key"] == "ottla-import"
    return header["value"]


def test_files_become_records_and_rows(ottla, broker, duckdb, tmp_path):
    files = tmp_path / "in"
    (files / "dt=2026-01-01").mkdir(parents=True)
    (files / "_logs").mkdir()
    # A file for each message, as a consumer that writes to a bucket leaves them.
    for number in range(40):
        text = json.dumps({"id": number, "name": f"n{number}", "at": "2026-01-01T00:00:00Z"}, indent=2 if number % 2 else None)
        (files / "dt=2026-01-01" / f"stock_market_{number}.json").write_text(text)
    lines = [json.dumps({"id": number, "name": "line", "at": 1_767_225_600_000}) for number in range(40, 100)]
    (files / "lines.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (files / "rows.csv").write_text("id,name,at\n" + "".join(f'{number},"a, ""b""",2026-01-01\n' for number in range(100, 150)))
    (files / "array.json").write_text(json.dumps([{"id": number, "name": "x", "at": "2026-01-01"} for number in range(150, 160)]))
    (files / "_logs" / "not.json").write_text("nothing of this is read")
    (files / "empty.json").write_text("")
    create(ottla, "stocks", "ottla.lake.enable=true", "ottla.lake.lag.ms=5000", "retention.ms=-1")
    said = ottla("lake", "import", "stocks", str(files), "--key", "id", "--timestamp", "at", cwd=tmp_path)
    assert said.stderr.splitlines()[-1] == "160 records of 43 files to stocks", said.report
    found = records(ottla, "stocks")
    assert sorted(int(record["key"]) for record in found) == list(range(160))
    assert {record["timestamp"] for record in found} == {1_767_225_600_000}
    by_id = {int(record["key"]): record for record in found}
    assert json.loads(by_id[120]["value"]) == {"id": 120, "name": 'a, "b"', "at": "2026-01-01"}
    assert origin(by_id[7]) == f"{files}/dt=2026-01-01/stock_market_7.json#0"
    assert origin(by_id[42]) == f"{files}/lines.jsonl.gz#2"
    wait_until(lambda: json.loads(ottla("lake", "status", "--json").lines[0])["lag_records"] == 0, 60, "no lag", poll_s=0.5)
    table = broker.directory.parent / "bucket" / "lake" / "ottla" / "stocks"
    assert duckdb.ask(f"SELECT count(*), count(DISTINCT id), sum(id) FROM iceberg_scan('{table}')") == [(160, 160, 12_720)]
    # Once more, and with files that came meanwhile.
    again = ottla("lake", "import", "stocks", str(files), cwd=tmp_path)
    assert again.stderr.splitlines()[-1] == "0 records of 0 files to stocks"
    (files / "rows.csv").open("a").write("160,new,2026-01-02\n")
    (files / "zzz.json").write_text('{"id": 161}')
    (files / "aaa.json").write_text('{"id": 162}')
    later = ottla("lake", "import", "stocks", str(files), cwd=tmp_path)
    assert later.stderr.splitlines() == [
        f"{files}: 1 file came since the last run whose names are before rows.csv; they were not imported",
        "2 records of 2 files to stocks",
    ]
    assert len(records(ottla, "stocks")) == 162


def test_a_run_that_was_killed_is_gone_on_with(ottla, broker, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(f'{{"id": {number}, "text": "{"x" * 50}"}}\n' for number in range(COUNT)))
    create(ottla, "stocks")
    progress = tmp_path / "progress.json"
    command = [str(environment.ottla_binary()), "lake", "import", "stocks", str(source), "--progress", str(progress), "-b", broker.bootstrap]
    seen, kills = 0, 0
    while True:
        run = Process(command)
        # So that each life gets a little further, and dies between two words of the progress file. The files are looked at, since
        # asking the broker takes as long as the whole import when the machine is busy.
        wait_until(lambda: not run.running() or written(broker) > seen, 60, "the import goes on", poll_s=0.001)
        if not run.running() or kills == 6:
            break
        run.kill()
        kills += 1
        # A thirtieth of all that comes.
        seen = written(broker) + 10_000
    assert run.wait(60) == 0, run.output()
    assert kills >= 4, "it was too quick to be killed"
    found = records(ottla, "stocks")
    assert len(found) == COUNT
    assert {origin(record) for record in found} == {f"{source}#{number}" for number in range(COUNT)}
    assert sorted(json.loads(record["value"])["id"] for record in found) == list(range(COUNT))
    assert json.loads(progress.read_text())["running"] == []


def written(broker) -> int:
    """Bytes in the logs of the topic, compressed."""
    return sum(file.stat().st_size for file in broker.data_dir.glob("stocks-*/*.log"))


def test_two_runs_do_not_share_a_progress_file(ottla, broker, tmp_path):
    source = tmp_path / "pipe.jsonl"
    source.write_text('{"id": 1}\n')
    create(ottla, "one")
    create(ottla, "two")
    progress = ("--progress", str(tmp_path / "progress"))
    run = Process([str(environment.ottla_binary()), "lake", "import", "one", str(source), *progress, "-b", broker.bootstrap])
    assert run.wait(60) == 0, run.output()
    said = ottla("lake", "import", "two", str(source), *progress, code=1)
    assert "another topic (one," in said.stderr
    ottla("topics", "delete", "one")
    create(ottla, "one")
    assert "another topic (one," in ottla("lake", "import", "one", str(source), *progress, code=1).stderr
    unfinished = json.loads((tmp_path / "progress").read_text()) | {"running": ["/elsewhere"]}
    unfinished["topic_id"] = next(line.split()[1] for line in ottla("topics", "describe", "one").lines if line.startswith("id "))
    (tmp_path / "progress").write_text(json.dumps(unfinished))
    assert "run it again with the same paths" in ottla("lake", "import", "one", str(source), *progress, code=1).stderr


def test_what_is_malformed_ends_the_run_or_is_counted(ottla, tmp_path):
    files = tmp_path / "in"
    files.mkdir()
    (files / "a.jsonl").write_text('{"id": 1}\n{"id": 2}\n{"id" 3}\n[1]\n\n{"name": "no id"}\n{"id": 4}\n')
    (files / "b.csv").write_text("id,name\n5,x\n6\n7,y\n")
    create(ottla, "strict")
    command = ("lake", "import", "strict", str(files), "--key", "id")
    for _ in range(2):
        said = ottla(*command, code=1, cwd=tmp_path)
        assert said.stderr.splitlines()[-1] == f"ottla lake: {files}/a.jsonl: line 3: expected `:`"
        assert [record["key"] for record in records(ottla, "strict")] in (["1", "2"], ["2", "1"])
    said = ottla(*command, "--skip-errors", cwd=tmp_path)
    assert said.stderr.splitlines() == [
        f"left out: {files}/a.jsonl: line 3: expected `:`",
        f"left out: {files}/a.jsonl: line 4: no JSON object begins there",
        f'left out: {files}/a.jsonl: line 6: it has no member "id"',
        f"left out: {files}/b.csv: line 3: the row has 1 cells, the first line 2",
        "3 records of 2 files to strict; 4 malformed, left out",
    ]
    assert sorted(record["key"] for record in records(ottla, "strict")) == ["1", "2", "4", "5", "7"]


def test_what_cannot_be_imported_is_said(ottla, tmp_path):
    create(ottla, "stocks")
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    (tmp_path / "old.json").write_text('{"at": "2001-01-01"}')
    (tmp_path / "large.json").write_text(json.dumps({"random": os.urandom(2_000_000).hex()}))
    (tmp_path / "empty").mkdir()
    for arguments, part in [
        (("nowhere", str(tmp_path)), "nowhere: no such topic"),
        (("stocks", str(tmp_path / "nothing")), "no such file"),
        (("stocks", str(tmp_path / "empty")), "there are no files"),
        (("stocks", str(tmp_path / "data.parquet")), "--format json or csv does"),
        (("stocks", str(tmp_path / "old.json"), "--timestamp", "at"), "set retention.ms=-1"),
        (("stocks", str(tmp_path / "large.json")), "MESSAGE_TOO_LARGE"),
    ]:
        said = ottla("lake", "import", *arguments, "--progress", str(tmp_path / f"progress-{len(part)}"), code=1)
        assert part in said.stderr, said.report
    assert records(ottla, "stocks") == []


def test_objects_of_a_bucket_become_records(ottla, aws, tmp_path):
    bucket = boto3.client("s3", endpoint_url=aws.url, region_name=engines.REGION)
    numbers = range(1200)
    for number in numbers:
        bucket.put_object(Bucket="lake", Key=f"raw/stock_market_{number}.json", Body=json.dumps({"id": number}).encode())
    lines = "".join(f'{{"id": {number}, "text": "{"x" * 200}"}}\n' for number in range(1200, 12_000))
    bucket.put_object(Bucket="lake", Key="raw/many.jsonl", Body=lines.encode())
    bucket.put_object(Bucket="lake", Key="rawer/not.json", Body=b"{}")
    create(ottla, "stocks")
    options = ("--override", f"ottla.tier.s3.endpoint={aws.url}", "--override", "ottla.tier.s3.path.style=true")
    for expected in ("12000 records of 1201 files to stocks", "0 records of 0 files to stocks"):
        said = ottla("lake", "import", "stocks", "s3://lake/raw", *options, cwd=tmp_path)
        assert said.stderr.splitlines()[-1] == expected, said.report
    assert sorted(json.loads(record["value"])["id"] for record in records(ottla, "stocks")) == list(range(12_000))
    bucket.put_object(Bucket="lake", Key="raw/with space.json", Body=b"{}")
    assert "with spaces" in ottla("lake", "import", "stocks", "s3://lake/raw", *options, code=1, cwd=tmp_path).stderr
