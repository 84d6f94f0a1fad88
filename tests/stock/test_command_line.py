"""The subcommands of `ottla` that are clients, as docs/command-line.md shows them; they work with any broker."""

import json
import re

import pytest

from harness import environment
from harness.process import Process, run, wait_until
from harness.ports import free_port


@pytest.fixture
def ottla(broker):
    def call(*arguments: str, stdin: str | None = None, bootstrap: str = broker.bootstrap, code: int = 0):
        completed = run([str(environment.ottla_binary()), *arguments, "-b", bootstrap], stdin=stdin, check=False)
        assert completed.code == code, completed.report
        return completed

    return call


@pytest.fixture
def topic(ottla, name):
    ottla("topics", "create", name, "--partitions", "3")
    return name


def table(completed) -> list[dict[str, str]]:
    lines = [line.split() for line in completed.lines if line.strip()]
    at = next(at for at, line in enumerate(lines) if line[0].isupper())
    return [dict(zip(lines[at], line)) for line in lines[at + 1:]]


def test_topics(ottla, name):
    created = ottla("topics", "create", name, "--partitions", "3", "--config", "retention.ms=60000")
    assert created.lines == [f"created topic {name}: 3 partitions, replication factor 1"]
    ottla("topics", "create", name, code=1)
    ottla("topics", "create", name, "--if-not-exists")
    assert name in ottla("topics", "list", "--names").lines
    described = ottla("topics", "describe", name)
    assert re.search(r"^configs +.*retention\.ms=60000", described.stdout, re.M), described.report
    assert [row["PARTITION"] for row in table(described)] == ["0", "1", "2"]
    ottla("topics", "alter", name, "--partitions", "4", "--delete-config", "retention.ms")
    described = ottla("topics", "describe", name)
    assert len(table(described)) == 4 and "retention.ms" not in described.stdout
    ottla("topics", "delete", name)
    missing = ottla("topics", "describe", name, code=1)
    assert "UNKNOWN_TOPIC_OR_PARTITION" in missing.stderr
    ottla("topics", "delete", name, "--if-exists")


def test_text_in_and_out(ottla, topic):
    produced = ottla("produce", topic, "--key-separator", ":", "--partition", "1", stdin="a:1\nb:2\nnone\n")
    assert f"3 records to {topic}" in produced.stderr
    assert ottla("consume", topic, "--quiet").lines == ["1", "2", "none"]
    keyed = ottla("consume", topic, "--key-separator", "=", "--meta", "--from", "1", "--max", "1", "--partition", "1")
    assert re.fullmatch(r"1:1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z b=2", keyed.lines[0]), keyed.report


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_json_in_and_out(ottla, topic, name, codec):
    rows = [
        {"key": "k", "value": "v", "headers": [{"key": "h", "value": "1"}, {"key": "h", "value": "2"}],
         "partition": 2, "timestamp": 1_700_000_000_000},
        {"key": "gone", "value": None, "headers": [], "partition": 2, "timestamp": 1_700_000_000_001},
        {"key": None, "value_base64": "AP8=", "headers": [], "partition": 2, "timestamp": 1_700_000_000_002},
    ]
    stdin = "".join(json.dumps(row) + "\n" for row in rows)
    ottla("produce", topic, "--format", "json", "--compression", codec, stdin=stdin)
    out = ottla("consume", topic, "--format", "json", "--quiet")
    read = [json.loads(line) for line in out.lines]
    assert [{key: record[key] for key in row} for record, row in zip(read, rows, strict=True)] == rows
    # What it prints can be fed to it as it is.
    copy = f"{name}-copy"
    ottla("topics", "create", copy, "--partitions", "3")
    ottla("produce", copy, "--format", "json", stdin=out.stdout)
    again = [json.loads(line) for line in ottla("consume", copy, "--format", "json", "--quiet").lines]
    assert [{**record, "topic": topic} for record in again] == read


def test_a_group(ottla, topic):
    ottla("produce", topic, "--partition", "0", stdin="".join(f"{number}\n" for number in range(10)))
    group = f"{topic}-group"
    first = ottla("consume", topic, "--group", group, "--max", "4", "--quiet")
    assert first.lines == ["0", "1", "2", "3"]
    assert any(row["GROUP"] == group for row in table(ottla("groups", "list")))
    described = ottla("groups", "describe", group)
    row = next(row for row in table(described) if row["PARTITION"] == "0")
    assert (row["COMMITTED"], row["END"], row["LAG"]) == ("4", "10", "6")
    plan = ottla("groups", "reset-offsets", group, "--topic", f"{topic}:0", "--to", "beginning")
    assert table(plan)[0]["TO"] == "0" and "--execute" in plan.stdout + plan.stderr
    ottla("groups", "reset-offsets", group, "--topic", f"{topic}:0", "--shift-by", "-3", "--execute")
    rest = ottla("consume", topic, "--group", group, "--max", "9", "--quiet")
    assert rest.lines == [str(number) for number in range(1, 10)]
    ottla("groups", "delete", group)
    ottla("groups", "describe", group, code=1)


def test_members_of_a_group(ottla, broker, topic, ended):
    group = f"{topic}-group"
    command = [str(environment.ottla_binary()), "consume", topic, "--group", group, "--follow", "-b", broker.bootstrap]
    member = ended(Process(command))
    ottla("produce", topic, stdin="one\n")
    wait_until(lambda: "one" in member.lines, 30, "the member has read the record")
    assert len(table(ottla("groups", "members", group))) == 1
    ottla("groups", "delete", group, code=1)


def test_configs(ottla, topic):
    ottla("configs", "set", "--topic", topic, "retention.ms=3600000", "max.message.bytes=2000000")
    values = {row["KEY"]: row["VALUE"] for row in table(ottla("configs", "describe", "--topic", topic))}
    assert values["retention.ms"] == "3600000" and values["max.message.bytes"] == "2000000"
    ottla("configs", "delete", "--topic", topic, "max.message.bytes")
    values = {row["KEY"]: row["VALUE"] for row in table(ottla("configs", "describe", "--topic", topic))}
    assert "max.message.bytes" not in values
    refused = ottla("configs", "set", "--topic", topic, "retention.ms=soon", code=1)
    assert "INVALID_CONFIG" in refused.stderr


def test_perf(ottla, name):
    produced = ottla("perf", "produce", name, "--records", "5000", "--record-size", "100", "--partitions", "2")
    assert re.search(r"^total +5000 records, 0\.5 MB", produced.stdout, re.M), produced.report
    assert re.search(r"^latency p50 .* max ", produced.stdout, re.M), produced.report
    consumed = ottla("perf", "consume", name)
    assert re.search(r"^total +5000 records, 0\.5 MB", consumed.stdout, re.M), consumed.report
    grouped = ottla("perf", "consume", name, "--group", name, "--records", "5000")
    assert re.search(r"^total +5000 records", grouped.stdout, re.M), grouped.report


def test_perf_gives_up_when_no_more_comes(ottla, topic):
    ottla("produce", topic, stdin="1\n2\n")
    fewer = ottla("perf", "consume", topic, "--records", "3", "--idle", "1", code=1)
    assert re.search(r"^total +2 records", fewer.stdout, re.M), fewer.report
    assert "no record came for 1 s" in fewer.stderr


def test_exit_codes(ottla, name):
    nobody = ottla("topics", "list", "--timeout", "1", bootstrap=f"127.0.0.1:{free_port()}", code=3)
    assert "connection refused" in nobody.stderr
    ottla("topics", "list", "--no-such-option", code=2)
    ottla("consume", name, "--from", "yesterday-ish", code=2)
