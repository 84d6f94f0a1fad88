"""kafka-console-producer and kafka-console-consumer of three generations, typed at and in batches."""

import re
import time

import pytest

# 3.x waits up to a second for a batch to fill (--timeout); the rest is room for a busy machine.
_AT_ONCE_S = 5


def test_each_typed_line_arrives_at_once(tools, name, ended):
    """The flow of every tutorial: a topic, a consumer in one terminal, a producer in another."""
    tools.run("kafka-topics", "--create", "--topic", name, "--replication-factor", "1", "--partitions", "1")
    consumer = ended(tools.start("kafka-console-consumer", "--topic", name, "--from-beginning"))
    producer = ended(tools.start("kafka-console-producer", "--topic", name))

    producer.write("the first line\n")
    consumer.wait_for_line(lambda line: line == "the first line", 30)
    for number in range(5):
        typed = time.monotonic()
        producer.write(f"line {number}\n")
        consumer.wait_for_line(lambda line, number=number: line == f"line {number}", 30)
        assert time.monotonic() - typed < _AT_ONCE_S
    producer.close_input()
    assert producer.wait(30) == 0, producer.output()
    assert consumer.lines == ["the first line", *(f"line {number}" for number in range(5))]


def test_keys_headers_and_positions(tools, name):
    tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "1")
    tools.run("kafka-console-producer", "--topic", name, "--property", "parse.key=true", "--property", "parse.headers=true",
              "--property", "null.marker=NULL", stdin="a:1,a:2\tk1\tv1\nb:3\tk2\tNULL\nc:4\tNULL\tv3\n")
    shown = ["--property", "print.key=true", "--property", "print.headers=true", "--property", "print.offset=true",
             "--property", "print.partition=true", "--property", "print.timestamp=true"]
    consumed = tools.run("kafka-console-consumer", "--topic", name, "--from-beginning", "--max-messages", "3",
                         "--timeout-ms", "30000", *shown)
    # 4.x says on stdout that --property has a new name; tutorials go on using it.
    records = [re.sub(r"CreateTime:\d+", "CreateTime", line) for line in consumed.lines if "deprecated" not in line]
    assert records == ["CreateTime\tPartition:0\tOffset:0\ta:1,a:2\tk1\tv1",
                       "CreateTime\tPartition:0\tOffset:1\tb:3\tk2\tnull",
                       "CreateTime\tPartition:0\tOffset:2\tc:4\tnull\tv3"]

    from_one = tools.run("kafka-console-consumer", "--topic", name, "--partition", "0", "--offset", "1",
                         "--max-messages", "1", "--timeout-ms", "30000", *shown)
    assert "Offset:1" in from_one.stdout and "Offset:0" not in from_one.stdout


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed(tools, name, codec):
    """The topic is made by the first record, as brokers do by default."""
    lines = [f"{codec} line {number} " + "x" * 100 for number in range(200)]
    tools.run("kafka-console-producer", "--topic", name, "--compression-codec", codec, stdin="\n".join(lines) + "\n")
    consumed = tools.run("kafka-console-consumer", "--topic", name, "--from-beginning", "--max-messages", "200",
                         "--timeout-ms", "30000")
    assert consumed.lines == lines
