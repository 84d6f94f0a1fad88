"""kafka-consumer-groups of three generations: list, describe with lag, reset and delete offsets, delete."""

import time

import pytest

from harness.process import wait_until


@pytest.fixture
def topic(tools, name):
    """A topic of two partitions with 10 records in partition 0, of which the group `name` has consumed 4."""
    tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "1")
    tools.run("kafka-console-producer", "--topic", name, stdin="".join(f"{number}\n" for number in range(10)))
    consumed = tools.run("kafka-console-consumer", "--topic", name, "--group", name, "--from-beginning",
                         "--max-messages", "4", "--timeout-ms", "30000")
    assert consumed.lines == ["0", "1", "2", "3"]
    return name


def rows(described) -> list[dict[str, str]]:
    """The table that --describe prints, one dict per row."""
    lines = [line.split() for line in described.lines if line.strip()]
    at = next((at for at, line in enumerate(lines) if line[0] == "GROUP"), None)
    assert at is not None, described.report
    return [dict(zip(lines[at], line)) for line in lines[at + 1:]]


def offsets(tools, group) -> list[tuple[str, str, str]]:
    table = rows(tools.run("kafka-consumer-groups", "--describe", "--group", group))
    return [(row["CURRENT-OFFSET"], row["LOG-END-OFFSET"], row["LAG"]) for row in table]


def test_list_and_lag(tools, topic):
    assert topic in tools.run("kafka-consumer-groups", "--list").lines
    states = tools.run("kafka-consumer-groups", "--list", "--state").lines
    assert any(line.split()[0] == topic and line.split()[-1] == "Empty" for line in states if line.strip()), states
    assert offsets(tools, topic) == [("4", "10", "6")]


def test_a_group_with_a_member(tools, topic, ended):
    consumer = ended(tools.start("kafka-console-consumer", "--topic", topic, "--group", topic,
                                 "--consumer-property", "client.id=watcher",
                                 "--consumer-property", "auto.commit.interval.ms=100"))
    consumer.wait_for_line(lambda line: line == "9", 30)
    wait_until(lambda: offsets(tools, topic) == [("10", "10", "0")], 30, "the last commit")
    described = tools.run("kafka-consumer-groups", "--describe", "--group", topic)
    (row,) = rows(described)
    assert row["CONSUMER-ID"].startswith("watcher-") and row["CLIENT-ID"] == "watcher" and row["HOST"] == "/127.0.0.1"

    (member,) = rows(tools.run("kafka-consumer-groups", "--describe", "--group", topic, "--members", "--verbose"))
    assert member["#PARTITIONS"] == "1"
    state = tools.run("kafka-consumer-groups", "--describe", "--group", topic, "--state").stdout
    assert "Stable" in state and "range" in state

    refused = tools.run("kafka-consumer-groups", "--delete", "--group", topic, check=False)
    assert "GroupNotEmptyException" in refused.stdout + refused.stderr
    refused = tools.run("kafka-consumer-groups", "--reset-offsets", "--to-earliest", "--group", topic, "--topic", topic,
                        "--execute", check=False)
    assert "is not inactive" in (refused.stdout + refused.stderr) or "Stable" in (refused.stdout + refused.stderr)


def test_reset_offsets(tools, topic):
    def reset(*how):
        tools.run("kafka-consumer-groups", "--reset-offsets", "--group", topic, "--topic", topic, *how, "--execute")
        return offsets(tools, topic)[0][0]

    assert reset("--to-latest") == "10"
    assert reset("--shift-by", "-3") == "7"
    assert reset("--to-offset", "2") == "2"
    future = time.strftime("%Y-%m-%dT%H:%M:%S.000", time.gmtime(time.time() + 86400))
    assert reset("--to-datetime", future) == "10"
    assert reset("--to-datetime", "2001-01-01T00:00:00.000") == "0"


def test_delete_offsets_and_group(tools, topic):
    tools.run("kafka-consumer-groups", "--delete-offsets", "--group", topic, "--topic", topic)
    described = tools.run("kafka-consumer-groups", "--describe", "--group", topic, check=False)
    assert topic not in [line.split()[0] for line in described.lines if line.strip() and line.split()[0] != "GROUP"]
    tools.run("kafka-consumer-groups", "--reset-offsets", "--group", topic, "--topic", topic, "--to-earliest", "--execute")
    assert "successful" in tools.run("kafka-consumer-groups", "--delete", "--group", topic).stdout
    assert topic not in tools.run("kafka-consumer-groups", "--list").lines
