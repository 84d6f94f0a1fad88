"""kcat: librdkafka as Debian ships it, from a shell."""

import json

import pytest

from harness import environment
from harness.process import run, wait_until
from harness.samples import CODECS, create_topic


@pytest.fixture
def kcat(broker):
    program = environment.program("kcat")

    def call(*arguments: str, stdin: str | None = None):
        return run([program, "-b", broker.bootstrap, *arguments], stdin=stdin)

    return call


@pytest.mark.parametrize("codec", CODECS)
def test_produce_and_consume(kcat, broker, name, codec):
    create_topic(broker, name)
    kcat("-P", "-t", name, "-z", codec, "-K", ":", "-H", "a=1", "-H", "a=2", stdin="k1:v1\nk2:v2\nk3:v3\n")
    consumed = kcat("-C", "-t", name, "-o", "beginning", "-e", "-q", "-f", "%k %s %o %h\\n")
    assert consumed.lines == ["k1 v1 0 a=1,a=2", "k2 v2 1 a=1,a=2", "k3 v3 2 a=1,a=2"]


def test_nulls_tail_and_json(kcat, broker, name):
    create_topic(broker, name)
    kcat("-P", "-t", name, "-Z", "-K", ":", stdin=":\nkey:\n:value\n")
    records = [json.loads(line) for line in kcat("-C", "-t", name, "-o", "-2", "-e", "-q", "-J").lines]
    assert [(record["offset"], record["key"], record["payload"]) for record in records] == [(1, "key", None), (2, None, "value")]


def test_metadata_and_query(kcat, broker, name):
    create_topic(broker, name, partitions=3)
    listed = json.loads(kcat("-L", "-J", "-t", name).stdout)
    assert [node["name"] for node in listed["brokers"]] == [broker.bootstrap]
    assert len(listed["topics"][0]["partitions"]) == 3
    kcat("-P", "-t", name, "-p", "1", stdin="v\n")
    assert kcat("-Q", "-t", f"{name}:1:-1").stdout.strip().endswith("offset 1")


def test_group(kcat, broker, name, ended):
    from harness.process import Process

    create_topic(broker, name, partitions=2)
    kcat("-P", "-t", name, "-p", "0", stdin="a\nb\n")
    member = ended(Process([environment.program("kcat"), "-b", broker.bootstrap, "-G", name, name, "-X",
                            "auto.offset.reset=earliest", "-q", "-u"]))
    wait_until(lambda: member.lines == ["a", "b"], 30, "both records")
    kcat("-P", "-t", name, "-p", "1", stdin="c\n")
    wait_until(lambda: member.lines == ["a", "b", "c"], 30, "the third record")
