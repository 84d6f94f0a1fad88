"""The tools that ask for offsets, disks, features and the cluster itself, of three generations."""

import json
import re
import time

import pytest


@pytest.fixture
def topic(tools, name):
    """Three records in one partition."""
    tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "1")
    tools.run("kafka-console-producer", "--topic", name, stdin="a\nb\nc\n")
    return name


def offset(tools, topic, when) -> str:
    """What the tool prints for the one partition; "" when there is no such offset."""
    lines = [line for line in tools.run("kafka-get-offsets", "--topic", topic, "--time", str(when)).lines if line]
    assert all(line.startswith(f"{topic}:0:") for line in lines) and len(lines) <= 1, lines
    return lines[0].removeprefix(f"{topic}:0:") if lines else ""


def test_get_offsets(tools, topic):
    assert offset(tools, topic, -1) == "3"
    assert offset(tools, topic, -2) == "0"
    assert offset(tools, topic, -3) in ("0", "1", "2")
    assert offset(tools, topic, int(time.time() * 1000) - 3_600_000) == "0"
    assert offset(tools, topic, int(time.time() * 1000) + 3_600_000) == ""


def test_delete_records(tools, topic, tmp_path):
    file = tmp_path / "offsets.json"
    file.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 2}]}))
    assert re.search(rf"partition: {topic}-0\s+low_watermark: 2",
                     tools.run("kafka-delete-records", "--offset-json-file", str(file)).stdout)
    assert offset(tools, topic, -2) == "2"
    left = tools.run("kafka-console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "1",
                     "--timeout-ms", "30000")
    assert left.lines == ["c"]
    file.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 99}]}))
    beyond = tools.run("kafka-delete-records", "--offset-json-file", str(file), check=False)
    assert "OffsetOutOfRangeException" in beyond.stdout + beyond.stderr


def test_log_dirs(tools, topic, broker):
    output = tools.run("kafka-log-dirs", "--describe", "--topic-list", topic).lines
    described = json.loads(next(line for line in output if line.startswith("{")))
    (node,) = described["brokers"]
    (directory,) = node["logDirs"]
    assert directory["error"] is None and directory["logDir"] == str(broker.data_dir)
    (partition,) = directory["partitions"]
    assert partition["partition"] == f"{topic}-0" and partition["size"] > 0 and partition["offsetLag"] == 0


def test_broker_api_versions(tools):
    listed = tools.run("kafka-broker-api-versions").stdout
    assert "(id: 1 rack: null" in listed
    for api in ("Produce(0)", "Fetch(1)", "Metadata(3)", "ApiVersions(18)", "CreateTopics(19)"):
        line = next(line for line in listed.splitlines() if api in line)
        assert "UNSUPPORTED" not in line and "usable" in line, line


def test_quorum_features_and_cluster_id(tools):
    status = tools.run("kafka-metadata-quorum", "describe", "--status").stdout
    assert re.search(r"LeaderId:\s+1\b", status) and re.search(r"HighWatermark:\s+\d+", status), status
    replication = tools.run("kafka-metadata-quorum", "describe", "--replication").stdout
    assert re.search(r"^1\s.*Leader", replication, re.MULTILINE), replication
    assert "metadata.version" in tools.run("kafka-features", "describe").stdout
    # kafka-cluster takes the address after its subcommand.
    cluster = type(tools)(tools.version).run("kafka-cluster", "cluster-id", "--bootstrap-server", tools.bootstrap)
    assert re.search(r"Cluster ID: [\w-]{22}", cluster.stdout)


def test_leader_election(tools, topic):
    elected = tools.run("kafka-leader-election", "--election-type", "preferred", "--topic", topic, "--partition", "0")
    assert "Valid replica already elected" in elected.stdout and f"{topic}-0" in elected.stdout
