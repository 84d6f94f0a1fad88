"""The perf and verifiable tools of three generations."""

import json
import re
import signal

import pytest


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_perf(tools, name, acks):
    tools.run("kafka-topics", "--create", "--topic", name, "--partitions", "3")
    produced = tools.run("kafka-producer-perf-test", "--topic", name, "--num-records", "20000", "--record-size", "200",
                         "--throughput", "-1", "--producer-props", f"bootstrap.servers={tools.bootstrap}", f"acks={acks}")
    assert re.search(r"20000 records sent, [\d.]+ records/sec .*99\.9th", produced.stdout), produced.report

    consumed = tools.run("kafka-consumer-perf-test", "--topic", name, "--messages", "20000", "--timeout", "60000",
                         "--hide-header")
    columns = [column.strip() for column in consumed.lines[-1].split(",")]
    assert float(columns[2]) == pytest.approx(20000 * 200 / 1024 / 1024, abs=0.01) and columns[4] == "20000"


def test_verifiable(tools, name, ended):
    consumer = ended(tools.start("kafka-verifiable-consumer", "--topic", name, "--group-id", name, "--max-messages", "1000",
                                 "--reset-policy", "earliest", "--verbose"))
    produced = tools.run("kafka-verifiable-producer", "--topic", name, "--max-messages", "1000", "--acks", "-1")
    events = [json.loads(line) for line in produced.lines if line.startswith("{")]
    acked = {int(event["value"]) for event in events if event["name"] == "producer_send_success"}
    assert acked == set(range(1000))

    consumer.wait_for_line(lambda line: '"shutdown_complete"' in line, 60)
    events = [json.loads(line) for line in consumer.lines if line.startswith("{")]
    assert sorted(int(event["value"]) for event in events if event["name"] == "record_data") == list(range(1000))
    committed = [event for event in events if event["name"] == "offsets_committed" and event["success"]]
    assert committed and committed[-1]["offsets"][-1]["offset"] == 1000
