"""`ottla tier`: what is in the tier, whether it is sound, and a new cluster from the tier alone."""

import json
import os
import shutil
from pathlib import Path

import boto3
import pytest
from confluent_kafka import Consumer, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from harness import environment
from harness.aws import Aws
from harness.broker import Broker
from harness.ports import free_port
from harness.process import Process, run, wait_until
from harness.samples import create_topic

BUCKET = "tier"
PARTITIONS = 2
NODE_ID = 1


@pytest.fixture(scope="module", autouse=True)
def _only_ottla(broker_kind):
    if broker_kind != "ottla":
        pytest.skip("Apache Kafka has no tier of its own")


@pytest.fixture(scope="module")
def aws():
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "any"
    server = Aws(BUCKET)
    yield server
    server.end()


def tiered(directory, config: dict[str, str]) -> Broker:
    return Broker("ottla", directory, {
        "remote.log.storage.system.enable": "true",
        "remote.log.manager.task.interval.ms": "100",
        "log.retention.check.interval.ms": "200",
        "log.initial.task.delay.ms": "100",
        **config,
    })


@pytest.fixture(params=["directory", "bucket"])
def broker(request, tmp_path):
    if request.param == "directory":
        place = {"ottla.tier.url": f"file://{tmp_path}/tier"}
    else:
        server = request.getfixturevalue("aws")
        place = {"ottla.tier.url": f"s3://{BUCKET}/here", "ottla.tier.s3.endpoint": server.url}
    one = tiered(tmp_path / "node", place)
    one.start()
    yield one
    one.end()


def ottla_tier(broker: Broker, *arguments: str, code: int = 0):
    properties = str(broker.directory / "server.properties")
    completed = run([str(environment.ottla_binary()), "tier", *arguments, properties], check=False)
    assert completed.code == code, completed.report
    return completed


def status(broker: Broker, *options: str) -> dict[int, dict[str, str]]:
    lines = [line.split() for line in ottla_tier(broker, "status", *options).lines]
    rows = [dict(zip(lines[0], line)) for line in lines[1:]]
    return {int(row["PARTITION"]): row for row in rows}


def produce(broker: Broker, topic: str, count: int, first: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "compression.type": "none"})
    for number in range(first, first + count):
        producer.produce(topic, f"{number}:".encode() + os.urandom(5_000).hex().encode(), partition=number % PARTITIONS)
        producer.poll(0)
    assert producer.flush(120) == 0


def read(broker: Broker, topic: str, partition: int) -> list[tuple[int, bytes]]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "any", "enable.partition.eof": True,
                         "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0)])
    found = []
    while (message := consumer.poll(60)) is not None and not message.error():
        found.append((message.offset(), message.value()))
    consumer.close()
    assert message is not None, "no end of the partition"
    return found


def topic_id(broker: Broker, topic: str) -> str:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    return str(admin.describe_topics(TopicCollection([topic]))[topic].result(30).topic_id)


def test_a_new_cluster_has_every_tiered_record_of_the_lost_one(broker, name):
    topic = create_topic(broker, name, PARTITIONS, remote_storage_enable="true", segment_bytes=1_048_576,
                         local_retention_bytes=1_048_576, retention_ms=172_800_000)
    other = create_topic(broker, f"{name}-local", 1)
    produce(broker, topic, 1_200)

    def is_tiered() -> bool:
        rows = status(broker, "-b", broker.bootstrap)
        # All but what the active segment has.
        return len(rows) == PARTITIONS and all(int(row["FILES"]) >= 4 and int(row["LAG"]) < 120 for row in rows.values())

    wait_until(is_tiered, 90, "the sealed segments are in the tier")
    before = status(broker, "-b", broker.bootstrap)
    assert all(row["TOPIC"] == topic and int(row["BYTES"]) > 4_000_000 for row in before.values()), before
    records = {partition: read(broker, topic, partition) for partition in range(PARTITIONS)}
    wait_until(lambda: "0 gaps" in ottla_tier(broker, "check", "--footers").stdout, 30, "the tier is sound")
    old_id = topic_id(broker, topic)
    # The topics are written down a moment after they are made.
    wait_until(lambda: topic in cluster_state(broker), 30, "the topic is known in the tier")
    log_ends = [len(records[partition]) for partition in range(PARTITIONS)]
    assert log_ends[1] > int(before[1]["END"]), "the last records are not in the tier"
    commit(broker, "half-way", [TopicPartition(topic, 0, 100, metadata="mine")])
    commit(broker, "all-read", [TopicPartition(topic, p, end) for p, end in enumerate(log_ends)] + [TopicPartition(f"{name}-local", 0, 0)])
    wait_until(lambda: known_groups(broker).keys() >= {"half-way", "all-read"}, 30, "the committed offsets are in the tier")

    broker.kill()
    shutil.rmtree(broker.data_dir)
    after = status(broker, "--offline")
    assert {p: row["END"] for p, row in after.items()} == {p: row["END"] for p, row in before.items()}
    restored = ottla_tier(broker, "restore").stdout
    assert restored.startswith(f"restored 2 topics with {PARTITIONS + 1} partitions"), restored
    assert "how far 2 groups had read" in restored, restored
    broker.start()

    assert topic_id(broker, topic) == old_id
    ends = {}
    for partition, all_records in records.items():
        ends[partition] = int(before[partition]["END"])
        found = read(broker, topic, partition)
        assert [offset for offset, _ in found] == list(range(ends[partition]))
        assert found == all_records[:ends[partition]]
    # A group goes on where it was, or where the records end that are left.
    assert committed(broker, "half-way", topic) == {0: (100, "mine")}
    assert committed(broker, "all-read", topic) == {p: (ends[p], "") for p in range(PARTITIONS)}
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    configs = admin.describe_configs([resource])[resource].result(30)
    assert configs["retention.ms"].value == "172800000"
    assert read(broker, other, 0) == []

    # It goes on where the lost one's tier ended, in the tier too, and through a restart.
    produce(broker, topic, 600)
    commit(broker, "half-way", [TopicPartition(topic, 0, 110)])
    wait_until(lambda: known_groups(broker).get("half-way") == 110, 30, "the new cluster's offsets are in the tier")
    wait_until(lambda: all(int(row["END"]) > ends[p] for p, row in status(broker, "-b", broker.bootstrap).items()), 90,
               "what is new is in the tier")
    broker.stop()
    broker.start()
    for partition, all_records in records.items():
        found = read(broker, topic, partition)
        assert [offset for offset, _ in found] == list(range(ends[partition] + 600 // PARTITIONS))
        assert found[:ends[partition]] == all_records[:ends[partition]]
    assert "0 gaps" in ottla_tier(broker, "check").stdout
    assert committed(broker, "half-way", topic)[0][0] == 110
    # The new cluster writes down its own topics.
    create_topic(broker, f"{name}-new", 1)
    wait_until(lambda: f"{name}-new" in cluster_state(broker), 30, "the new topic is known in the tier")


def newest_state(broker: Broker, folder: str) -> dict:
    """The last of the numbered states in a folder of the tier."""
    url = broker.config["ottla.tier.url"]
    if url.startswith("file://"):
        newest = sorted(Path(url.removeprefix("file://"), "tier/v1", folder).glob("*.json"))
        text = newest[-1].read_text() if newest else "{}"
    else:
        s3 = boto3.client("s3", endpoint_url=broker.config["ottla.tier.s3.endpoint"], region_name="us-east-1")
        prefix = url.removeprefix(f"s3://{BUCKET}/")
        newest = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/tier/v1/{folder}/").get("Contents", [])
        text = s3.get_object(Bucket=BUCKET, Key=newest[-1]["Key"])["Body"].read() if newest else "{}"
    return json.loads(text)


def cluster_state(broker: Broker) -> list[str]:
    """The topics that a new cluster would get."""
    return [topic["name"] for topic in newest_state(broker, "cluster").get("topics", [])]


def known_groups(broker: Broker) -> dict[str, int]:
    """The groups whose offsets a new cluster would get, with one of these offsets."""
    partitions = newest_state(broker, f"groups/{NODE_ID:010}").get("partitions", [])
    return {one["group"]: one["offset"] for partition in partitions for one in partition["offsets"]}


def commit(broker: Broker, group: str, offsets: list[TopicPartition]) -> None:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "enable.auto.commit": False})
    done = consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()
    assert not any(one.error for one in done), done


def committed(broker: Broker, group: str, topic: str) -> dict[int, tuple[int, str]]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    found = consumer.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=30)
    consumer.close()
    return {one.partition: (one.offset, one.metadata or "") for one in found if one.offset >= 0}


def test_a_restore_that_was_cut_off_is_run_again(aws, tmp_path, name):
    """Killed when there are few logs, some and most of them; each time the next one goes on."""
    broker = tiered(tmp_path / "node", {
        "ottla.tier.url": f"s3://{BUCKET}/cut-off",
        "ottla.tier.s3.endpoint": aws.url,
        "ottla.tier.segment.ms.max": "500",
    })
    broker.start()
    topics = [create_topic(broker, f"{name}-{number}", PARTITIONS, remote_storage_enable="true") for number in range(8)]
    for topic in topics:
        produce(broker, topic, 20)

    def is_tiered() -> bool:
        # By partition only: each topic is asked for.
        lines = [line.split() for line in ottla_tier(broker, "status", "-b", broker.bootstrap).lines][1:]
        return len(lines) == len(topics) * PARTITIONS and all(line[3] == str(20 // PARTITIONS) for line in lines)

    wait_until(is_tiered, 90, "all records are in the tier")
    wait_until(lambda: set(topics) <= set(cluster_state(broker)), 30, "all topics are known in the tier")
    records = {(topic, partition): read(broker, topic, partition) for topic in topics for partition in range(PARTITIONS)}
    ids = {topic: topic_id(broker, topic) for topic in topics}
    broker.kill()
    shutil.rmtree(broker.data_dir)

    def logs() -> int:
        return len(list(broker.data_dir.glob(f"{name}-*")))

    command = [str(environment.ottla_binary()), "tier", "restore", str(broker.directory / "server.properties")]
    try:
        aws.faults({"kind": "slow", "method": "GET", "path": "cut-off", "seconds": 0.2}, name=BUCKET)
        for wanted in (1, len(topics), 2 * len(topics) - PARTITIONS):
            restore = Process(command)
            wait_until(lambda: logs() >= wanted or not restore.running(), 60, f"{wanted} logs are there")
            assert restore.running(), restore.output()
            restore.kill()
            assert logs() < PARTITIONS * len(topics), "it was over before it was killed"
    finally:
        aws.faults(name=BUCKET)
    restored = ottla_tier(broker, "restore").stdout
    assert restored.startswith("restored "), restored
    broker.start()
    for topic in topics:
        assert topic_id(broker, topic) == ids[topic]
        for partition in range(PARTITIONS):
            assert read(broker, topic, partition) == records[topic, partition]
    # It goes on, in the tier too.
    produce(broker, topics[-1], 20, first=20)
    wait_until(lambda: "0 gaps" in ottla_tier(broker, "check", "--footers").stdout, 30, "the tier is sound")
    ends = [len(read(broker, topics[-1], partition)) for partition in range(PARTITIONS)]
    assert ends == [40 // PARTITIONS] * PARTITIONS
    assert broker.stop() == 0
    broker.end()


def test_nothing_is_restored_from_nothing(tmp_path):
    broker = tiered(tmp_path / "node", {"ottla.tier.url": f"file://{tmp_path}/tier"})
    broker.start()
    broker.stop()
    shutil.rmtree(broker.data_dir)
    told = ottla_tier(broker, "restore", code=1).stderr
    assert "nothing can be restored" in told
    broker.end()


def test_a_damaged_tier_is_told_of(tmp_path, name):
    tier = Path(tmp_path, "tier")
    broker = tiered(tmp_path / "node", {"ottla.tier.url": f"file://{tier}"})
    broker.start()
    topic = create_topic(broker, name, 1, remote_storage_enable="true", segment_bytes=1_048_576)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for _ in range(500):
        producer.produce(topic, os.urandom(10_000), partition=0)
        producer.poll(0)
    assert producer.flush(60) == 0
    wait_until(lambda: int(status(broker, "--offline").get(0, {"FILES": 0})["FILES"]) >= 4, 60, "segments are in the tier")
    broker.stop()
    objects = sorted(tier.glob("tier/v1/*/0/*.seg"))
    objects[0].unlink()
    objects[1].write_bytes(objects[1].read_bytes()[:-1])
    objects[2].write_bytes(bytes(objects[2].stat().st_size))
    shutil.copy(objects[3], objects[3].with_name(objects[3].name[:-12] + "00000000.seg"))
    told = ottla_tier(broker, "check", "--footers", code=1).stdout
    assert told.count("gap: ") == 3 and "is not there" in told, told
    assert "1 not named yet" in told, told
    broker.end()


def test_a_bucket_that_is_away_does_not_keep_a_node_from_starting(aws, tmp_path, name):
    broker = tiered(tmp_path / "node", {
        "ottla.tier.url": f"s3://{BUCKET}/away",
        "ottla.tier.s3.endpoint": f"http://127.0.0.1:{free_port()}",
        "ottla.tier.s3.retries": "0",
    })
    broker.start()
    topic = create_topic(broker, name, 1)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(topic, b"all the same")
    assert producer.flush(30) == 0
    assert [value for _, value in read(broker, topic, 0)] == [b"all the same"]
    wait_until(lambda: "the bucket of ottla.tier.url cannot be used now" in broker.log(), 30, "the log says so")
    assert broker.stop() == 0
    broker.end()
