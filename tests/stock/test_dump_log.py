"""kafka-dump-log of three generations on the files that a broker leaves on disk: logs, indexes, producer snapshots,
and the offsets topic. The files are Kafka's, so Kafka's own reader is their judge."""

import re
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from harness import environment
from harness.tools import KafkaTools

_RECORDS = 6_000


@pytest.fixture(scope="module")
def data_dir(broker_kind, tmp_path_factory):
    """What a broker that was stopped leaves: a topic of several segments, written by an idempotent producer, and the
    committed offsets of one group."""
    from harness.broker import Broker

    broker = Broker(broker_kind, tmp_path_factory.mktemp("dumped")).start()
    try:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        # 1 MiB is the least that Kafka 4 takes.
        admin.create_topics([NewTopic("dumped", 1, 1, config={"segment.bytes": "1048576"})])["dumped"].result(30)
        producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "batch.num.messages": 50})
        for number in range(_RECORDS):
            producer.produce("dumped", key=str(number), value=b"v" * 500, headers=[("n", str(number))])
            producer.poll(0)
        assert producer.flush(60) == 0
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "dump-group",
                             "auto.offset.reset": "earliest", "enable.auto.commit": False})
        consumer.subscribe(["dumped"])
        assert len(consumer.consume(100, 30)) == 100
        consumer.commit(asynchronous=False)
        consumer.close()
        assert broker.stop() in (0, 143)
        yield broker.data_dir
    finally:
        broker.end()


@pytest.fixture(params=environment.KAFKA_VERSIONS)
def tools(request):
    return KafkaTools(request.param)


def files(directory: Path, pattern: str) -> list[Path]:
    found = sorted(directory.glob(pattern))
    assert found, f"no {pattern} in {sorted(path.name for path in directory.iterdir())}"
    return found


def dump(tools, paths: list[Path], *how: str):
    return tools.run("kafka-dump-log", "--files", ",".join(map(str, paths)), *how)


def test_logs(tools, data_dir):
    logs = files(data_dir / "dumped-0", "*.log")
    assert len(logs) >= 3
    dumped = dump(tools, logs, "--deep-iteration", "--print-data-log")
    offsets = [int(offset) for offset in re.findall(r"^\| offset: (\d+)", dumped.stdout, re.MULTILINE)]
    assert offsets == list(range(_RECORDS))
    assert "isvalid: false" not in dumped.stdout and dumped.stdout.count("isvalid: true") >= _RECORDS // 50
    assert "headerKeys: [n]" in dumped.stdout
    first = re.search(r"baseOffset: 0 .*?producerId: (\d+) producerEpoch: (\d+)", dumped.stdout)
    assert first and int(first[1]) >= 0 and first[2] == "0"


def test_indexes(tools, data_dir):
    directory = data_dir / "dumped-0"
    indexes = files(directory, "*.index")
    assert any(path.stat().st_size > 0 for path in indexes[:-1])
    # The tool reports a bad entry as a mismatch between the index and the log beside it.
    checked = dump(tools, indexes + files(directory, "*.timeindex"))
    assert not re.search("mismatch|not found|not indexed|corrupt|Found timestamp", checked.stdout, re.IGNORECASE), checked.report
    assert re.search(r"^offset: \d+ position: \d+", checked.stdout, re.MULTILINE)
    assert re.search(r"^timestamp: \d+ offset: \d+", checked.stdout, re.MULTILINE)

    passed = dump(tools, indexes, "--index-sanity-check")
    assert passed.stdout.count("passed sanity check") == len(indexes), passed.report
    only = dump(tools, indexes, "--verify-index-only")
    assert "mismatch" not in only.stdout.lower(), only.report


def test_producer_snapshots(tools, data_dir):
    snapshots = files(data_dir / "dumped-0", "*.snapshot")
    dumped = dump(tools, [snapshots[-1]])
    states = re.findall(r"producerId: (\d+) producerEpoch: (\d+) .*?lastSequence: (\d+)", dumped.stdout)
    # Kafka writes the last batch of a producer, Ottla up to the last five; of several rows Kafka keeps the last.
    assert states and len({state[0] for state in states}) == 1, dumped.report
    assert states[-1][1:] == ("0", str(_RECORDS - 1)), dumped.report


def test_offsets_topic(tools, data_dir):
    directories = [path for path in data_dir.glob("__consumer_offsets-*") if (path / f"{0:020}.log").stat().st_size]
    assert len(directories) == 1, "one group lives in one partition"
    dumped = dump(tools, files(directories[0], "*.log"), "--offsets-decoder")
    # 3.x prints offset_commit::group=..,partition=dumped-0, 4.x JSON with the group and topic in it.
    commits = [line for line in dumped.lines if "dump-group" in line and "dumped" in line]
    assert any(re.search(r'offset(=|":)100\b', line) for line in commits), dumped.report
    assert any(re.search(r'group_metadata|protocolType', line) for line in dumped.lines if "dump-group" in line), dumped.report


def test_side_files(data_dir):
    """The small text files, in Kafka's formats."""
    meta = (data_dir / "meta.properties").read_text()
    for key in ("version=1", "cluster.id=", "node.id=1", "directory.id="):
        assert key in meta
    partition = (data_dir / "dumped-0" / "partition.metadata").read_text().splitlines()
    assert partition[0] == "version: 0" and re.fullmatch(r"topic_id: [\w-]{22}", partition[1])
    epochs = (data_dir / "dumped-0" / "leader-epoch-checkpoint").read_text().splitlines()
    assert epochs[:2] == ["0", "1"] and epochs[2] == "0 0"
    recovery = (data_dir / "recovery-point-offset-checkpoint").read_text().splitlines()
    assert recovery[0] == "0" and f"dumped 0 {_RECORDS}" in recovery
    assert (data_dir / ".kafka_cleanshutdown").exists()
