"""Replicas that find the next records in the remote tier alone: a broker that was away for long, a new replica, a replaced disk.
The tier is a directory that all nodes reach."""

import json
import shutil

import pytest
from harness.process import wait_until

PARTITIONS = 2
TOPIC = {"min_insync_replicas": 1, "remote_storage_enable": "true", "internal_segment_bytes": 65_536, "local_retention_bytes": 131_072}

# Smaller than a segment.
SMALL_BATCHES = {"batch.size": 16_384}


@pytest.fixture
def tiered(ottla_only, make_cluster, tmp_path):
    """Makes a cluster whose brokers look for work every fraction of a second."""
    return lambda: make_cluster({
        "remote.log.storage.system.enable": "true",
        "ottla.tier.url": f"file://{tmp_path}/tier",
        "remote.log.manager.task.interval.ms": "200",
        "log.retention.check.interval.ms": "200",
        "log.segment.delete.delay.ms": "100",
        "log.initial.task.delay.ms": "100",
        "replica.lag.time.max.ms": "3000",
    })


def local_bounds(cluster, node: int, partition: int) -> tuple[int, int]:
    """Where the first and the last segment on a node's disk begin; -1 where there is none."""
    starts = sorted(int(path.stem) for path in cluster.nodes[node].partition_dir("t", partition).glob("*.log"))
    return (starts[0], starts[-1]) if starts else (-1, -1)


def wait_for_tier(cluster, node: int, beyond: dict[int, int]) -> None:
    """Until nothing up to these offsets is on the node's disk any more."""
    for partition, offset in beyond.items():
        wait_until(lambda: local_bounds(cluster, node, partition)[0] > offset, 90,
                   f"partition {partition} up to {offset} is in the tier alone\n{cluster.logs()}")


def finish(cluster, load) -> None:
    """All records, the oldest from the tier."""
    load.finish()
    cluster.wait_in_sync("t")
    assert load.check(cluster.bootstrap) > 1_000


@pytest.mark.short
def test_a_broker_that_was_away_for_longer_than_local_retention(tiered, start_load):
    cluster = tiered().start(3)
    cluster.create_topic("t", assignment=[[1, 3], [1, 3]], **TOPIC)
    load = start_load(cluster, "t", PARTITIONS, rate=3_000, **SMALL_BATCHES)
    wait_for_tier(cluster, 1, {0: 0, 1: 0})
    cluster.nodes[3].stop()
    ends = {partition: local_bounds(cluster, 3, partition)[1] for partition in range(PARTITIONS)}
    cluster.wait_for_isr("t", {1})
    # Past its end, which lies in its last segment.
    wait_for_tier(cluster, 1, {partition: end + 3_000 for partition, end in ends.items()})
    cluster.restart(3)
    cluster.wait_for_isr("t", {1, 3})
    for partition, end in ends.items():
        assert local_bounds(cluster, 3, partition)[0] > end, "what came meanwhile was not copied"
    cluster.nodes[1].stop()
    cluster.wait_for_leader("t", lambda leader: leader == 3)
    load.wait_for_all_partitions(PARTITIONS)
    cluster.restart(1)
    finish(cluster, load)


def test_a_new_replica_by_reassignment_copies_nothing_that_is_in_the_tier(tiered, start_load, tmp_path):
    cluster = tiered().start(3)
    cluster.create_topic("t", assignment=[[1, 2], [2, 1]], **TOPIC)
    load = start_load(cluster, "t", PARTITIONS, rate=3_000, **SMALL_BATCHES)
    wait_for_tier(cluster, 1, {0: 2_000})
    wait_for_tier(cluster, 2, {1: 2_000})
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": "t", "partition": partition, "replicas": [3]} for partition in range(PARTITIONS)]}))
    cluster.tools().run("kafka-reassign-partitions", "--execute", "--reassignment-json-file", str(plan))
    cluster.wait_for_isr("t", {3})
    for partition in range(PARTITIONS):
        assert local_bounds(cluster, 3, partition)[0] > 2_000
    load.wait_for_all_partitions(PARTITIONS)
    # And back, so that those who had it begin anew.
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": "t", "partition": partition, "replicas": [1, 2]} for partition in range(PARTITIONS)]}))
    cluster.tools().run("kafka-reassign-partitions", "--execute", "--reassignment-json-file", str(plan))
    cluster.wait_for_isr("t", {1, 2})
    finish(cluster, load)


def test_a_broker_with_a_replaced_disk(tiered, start_load):
    cluster = tiered()
    for node in (1, 2, 3):
        cluster.add(node)
    cluster.add(4, "broker")
    cluster.start()
    cluster.create_topic("t", assignment=[[1, 4], [4, 1]], **TOPIC)
    load = start_load(cluster, "t", PARTITIONS, rate=3_000, **SMALL_BATCHES)
    wait_for_tier(cluster, 1, {0: 2_000, 1: 2_000})
    cluster.nodes[4].kill()
    cluster.wait_for_isr("t", {1})
    shutil.rmtree(cluster.nodes[4].data_dir)
    cluster.restart(4)
    cluster.wait_for_isr("t", {1, 4})
    for partition in range(PARTITIONS):
        assert local_bounds(cluster, 4, partition)[0] > 2_000
    cluster.nodes[1].stop()
    cluster.wait_for_leader("t", lambda leader: leader == 4)
    load.wait_for_all_partitions(PARTITIONS)
    cluster.restart(1)
    finish(cluster, load)
