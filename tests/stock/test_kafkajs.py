"""KafkaJS, driven by the small programs in javascript/."""

import base64
import json
from pathlib import Path

import pytest

from harness import environment
from harness.process import run
from harness.samples import CODECS, SAMPLES, create_topic

_PROGRAMS = Path(__file__).parent / "javascript"


def node(program: str, *arguments: str, stdin: str | None = None):
    modules = environment.node_modules()
    return run(["node", str(_PROGRAMS / program), *arguments], env={"NODE_PATH": str(modules), "KAFKAJS_NO_PARTITIONER_WARNING": "1"},
               stdin=stdin, timeout_s=120)


def text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


@pytest.mark.parametrize(("codec", "acks"), [(codec, "-1") for codec in CODECS] + [("none", "0"), ("none", "1")])
def test_records_come_back_unchanged(broker, name, codec, acks):
    create_topic(broker, name)
    # KafkaJS groups headers of one key, so those of the samples come back next to each other.
    sent = [{"key": text(sample.key), "value": text(sample.value), "timestamp": sample.timestamp,
             "headers": sorted([key, text(value)] for key, value in sample.headers)} for sample in SAMPLES]
    finished = node("roundtrip.js", broker.bootstrap, name, codec, acks, stdin=json.dumps(sent))
    received = [json.loads(line) for line in finished.lines]
    for record in received:
        record["headers"].sort()
    assert received == sent


def test_admin_and_group(broker, name):
    assert node("admin.js", broker.bootstrap, name).lines[-1] == "ok"
