"""A cluster of three from what a lost one of three left in the remote tier: `ottla tier restore` on one of the new nodes, beside
the others."""

import json
import shutil

import pytest
from harness import environment
from harness.process import Process, run, wait_until
from load import produce, read_all, value_of

PARTITIONS = 4
RECORDS = 400


@pytest.fixture
def cluster(ottla_only, make_cluster, tmp_path):
    return make_cluster({
        "remote.log.storage.system.enable": "true",
        "ottla.tier.url": f"file://{tmp_path}/tier",
        # Also what is in no full segment is soon in the tier.
        "ottla.tier.segment.ms.max": "500",
        "remote.log.manager.task.interval.ms": "200",
        "log.initial.task.delay.ms": "100",
    })


def tier(cluster, *arguments: str) -> list[str]:
    """`ottla tier` on the first node."""
    properties = cluster.nodes[1].directory / "server.properties"
    return cluster.network.command(1, [str(environment.ottla_binary()), "tier", *arguments, str(properties)])


def test_three_nodes_with_empty_disks_get_back_what_was_in_the_tier(cluster, tmp_path):
    cluster.start(3)
    cluster.create_topic("t", PARTITIONS, 3, remote_storage_enable="true")
    for partition in range(PARTITIONS):
        produce(cluster.bootstrap, "t", RECORDS, first=partition * RECORDS, partition=partition)

    def is_tiered() -> bool:
        rows = [line.split() for line in run(tier(cluster, "status", "-b", cluster.nodes[1].bootstrap)).lines[1:]]
        return len(rows) == PARTITIONS and all(row[3] == str(RECORDS) for row in rows)

    wait_until(is_tiered, 90, "all records are in the tier", poll_s=0.5)
    wait_until(lambda: any("t" in path.read_text() for path in (tmp_path / "tier").glob("tier/v1/cluster/*.json")), 30,
               "the topic is known in the tier")
    records = read_all(cluster.bootstrap, "t")
    assert {partition: len(found) for partition, found in records.items()} == dict.fromkeys(range(PARTITIONS), RECORDS)
    for node in cluster.nodes.values():
        node.kill()
        shutil.rmtree(node.data_dir)

    restore = Process(tier(cluster, "restore"))
    try:
        # One of three voters can found no cluster. It says what it waits for, and goes on when they come.
        restore.wait_for_line(lambda line: "waiting: for a majority of controller.quorum.voters" in line, 60, errors=True)
        for other in (2, 3):
            cluster.nodes[other].spawn()
        code = restore.wait(120)
    finally:
        restore.kill()
    assert code == 0, restore.output()
    told = f"restored 1 topics with {PARTITIONS} partitions and {PARTITIONS * RECORDS} offsets"
    assert restore.lines[-1].startswith(told), restore.output()
    cluster.wait_ready([cluster.nodes[2], cluster.nodes[3]])
    cluster.restart(1)
    cluster.wait_for_isr("t", {1})
    assert read_all(cluster.bootstrap, "t") == records

    # Its replicas are all on that node, until somebody says otherwise.
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": "t", "partition": partition, "replicas": [partition % 3 + 1, (partition + 1) % 3 + 1, (partition + 2) % 3 + 1]}
        for partition in range(PARTITIONS)]}))
    cluster.tools().run("kafka-reassign-partitions", "--execute", "--reassignment-json-file", str(plan))
    cluster.wait_for_isr("t", {1, 2, 3})
    produce(cluster.bootstrap, "t", RECORDS, first=PARTITIONS * RECORDS)
    records[0] += [(RECORDS + index, value_of(PARTITIONS * RECORDS + index)) for index in range(RECORDS)]
    cluster.nodes[1].kill()
    for partition in range(PARTITIONS):
        cluster.wait_for_leader("t", lambda leader: leader != 1, partition)
    assert read_all(cluster.bootstrap, "t") == records
    cluster.restart(1)
    cluster.wait_in_sync("t")
