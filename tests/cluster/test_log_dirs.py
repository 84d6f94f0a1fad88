"""Nodes with several log directories, each on a disk of its own, one of which fails: everything on it gets EIO."""

import json
from pathlib import Path

import pytest
from cluster import Cluster
from harness.loop_disk import LoopDisk
from harness.process import wait_until
from membership import TOOLS

pytestmark = pytest.mark.usefixtures("ottla_only")
PARTITIONS = 4
KAFKA_STORAGE_ERROR = 56


def on_two_disks(make_cluster, loop_disk, config: dict[str, str] | None = None) -> tuple[Cluster, LoopDisk]:
    """Three nodes, of which the third has a second log directory, on the disk that is returned."""
    disk = loop_disk(256)
    cluster = make_cluster(config)
    for node in (1, 2, 3):
        cluster.add(node)
    cluster.nodes[3].config["log.dirs"] = f"{cluster.nodes[3].data_dir},{disk.mount_point / 'data'}"
    return cluster.start(), disk


def partitions_on(disk: LoopDisk, topic: str) -> set[int]:
    return {int(path.name.rsplit("-", 1)[1]) for path in (disk.mount_point / "data").glob(f"{topic}-?")}


def wait_for_isr_without(cluster: Cluster, node: int, lost: set[int]) -> None:
    """Until the node is in sync exactly where its disk works."""
    def reached() -> bool:
        found = cluster.nodes[1].metadata("t").topics["t"]
        return all((node in partition.isr) == (number not in lost) for number, partition in found.items())
    wait_until(reached, 60, f"node {node} is in sync where its disk works\n{cluster.logs()}")


@pytest.mark.short
def test_a_log_directory_fails_under_load(make_cluster, loop_disk, start_load):
    cluster, disk = on_two_disks(make_cluster, loop_disk)
    cluster.create_topic("t", assignment=[[3, 1, 2]] * PARTITIONS)
    lost = partitions_on(disk, "t")
    assert 0 < len(lost) < PARTITIONS, "new replicas are spread over the directories"
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    load.wait_for_all_partitions(PARTITIONS)

    disk.cut_power()
    load.wait_for_all_partitions(PARTITIONS)
    wait_for_isr_without(cluster, 3, lost)
    for number, partition in cluster.nodes[1].metadata("t").topics["t"].items():
        assert (partition.leader == 3) == (number not in lost), (number, partition)
        assert partition.offline == ([3] if number in lost else []), (number, partition)
    described = cluster.nodes[3].log_dirs()
    good, bad = str(cluster.nodes[3].data_dir), str(disk.mount_point / "data")
    assert {path: found.error for path, found in described.items()} == {good: 0, bad: KAFKA_STORAGE_ERROR}
    assert {number for topic, number, _ in described[good].partitions if topic == "t"} == set(range(PARTITIONS)) - lost

    # A restart changes nothing as long as the disk does not come back.
    assert cluster.nodes[3].stop() == 0
    cluster.restart(3)
    load.wait_for_all_partitions(PARTITIONS)
    wait_for_isr_without(cluster, 3, lost)
    assert cluster.nodes[3].log_dirs()[bad].error == KAFKA_STORAGE_ERROR

    assert cluster.nodes[3].stop() == 0
    disk.unmount()
    disk.mount()
    cluster.restart(3)
    cluster.wait_in_sync("t")
    load.wait_for_all_partitions(PARTITIONS)
    load.finish()
    assert partitions_on(disk, "t") == lost
    assert load.check(cluster.bootstrap) > 100
    cluster.check_replicas_equal("t")


@pytest.mark.short
def test_a_node_without_any_log_directory_ends(make_cluster, loop_disk, start_load):
    """What the metadata needs lies elsewhere, and goes on until then."""
    disk = loop_disk(256)
    cluster = make_cluster({"default.replication.factor": "1", "min.insync.replicas": "1"})
    node = cluster.add(1)
    node.config["log.dirs"] = f"{disk.mount_point / 'one'},{disk.mount_point / 'two'}"
    node.config["metadata.log.dir"] = str(node.data_dir)
    cluster.start()
    cluster.create_topic("t", partitions=2, replication=1)
    load = start_load(cluster, "t", 2, rate=200)
    load.wait_for_all_partitions(2)
    node.should_run = False
    disk.cut_power()
    assert node.process.wait(30) == 74, node.log()
    assert "no log directory is left" in node.said(), node.said()

    node.spawn()
    node.should_run = False
    assert node.process.wait(30) == 3, node.log()
    assert "none of the log directories can be used" in node.said(), node.said()

    disk.unmount()
    disk.mount()
    cluster.restart(1)
    load.wait_for_all_partitions(2)
    load.finish()
    assert load.check(cluster.bootstrap) > 100


@pytest.mark.short
def test_a_node_that_cannot_tell_of_its_failed_directory_ends(make_cluster, loop_disk, start_load):
    """It leads partitions that only others could go on with, and nobody knows (KIP-858)."""
    cluster, disk = on_two_disks(make_cluster, loop_disk, {"log.dir.failure.timeout.ms": "1000"})
    if not cluster.network.can_cut:
        pytest.skip("no links can be cut here: network namespaces need root, ip, nft and nsenter")
    cluster.create_topic("t", assignment=[[3, 1, 2]] * PARTITIONS)
    lost = partitions_on(disk, "t")
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    load.wait_for_all_partitions(PARTITIONS)
    cluster.isolate(3)
    cluster.nodes[3].should_run = False
    disk.cut_power()
    assert cluster.nodes[3].process.wait(60) == 70, cluster.nodes[3].log()
    assert "log.dir.failure.timeout.ms" in cluster.nodes[3].said(), cluster.nodes[3].said()
    for number in lost:
        cluster.wait_for_leader("t", lambda leader: leader != 3, number)
    load.wait_for_all_partitions(PARTITIONS)
    cluster.network.heal()
    disk.unmount()
    disk.mount()
    cluster.restart(3)
    cluster.wait_in_sync("t")
    load.finish()
    assert load.check(cluster.bootstrap) > 100


def place(path: Path, topic: str, number: int, *replicas: tuple[int, str]) -> str:
    """A plan that says in which directories the replicas are to lie."""
    path.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": topic, "partition": number, "replicas": [node for node, _ in replicas], "log_dirs": [directory for _, directory in replicas]}]}))
    return str(path)


def in_dirs(node, topic: str, number: int, is_future: bool) -> list[str]:
    """The log directories of the node in which the replica lies, or is being copied to."""
    return [path for path, found in node.log_dirs().items() if (topic, number, is_future) in found.partitions]


@pytest.mark.short
def test_a_replica_moves_to_another_directory_under_load(make_cluster, loop_disk, start_load, tmp_path):
    """By kafka-reassign-partitions, at a rate, over a kill -9."""
    cluster, disk = on_two_disks(make_cluster, loop_disk)
    node = cluster.nodes[3]
    first, second = str(node.data_dir), str(disk.mount_point / "data")
    cluster.create_topic("t", assignment=[[3, 1, 2]])
    (source,) = in_dirs(node, "t", 0, False)
    target = second if source == first else first
    load = start_load(cluster, "t", 1, rate=2_000)
    load.wait_for_more(4_000)
    tools = cluster.tools(TOOLS)
    plan = place(tmp_path / "plan.json", "t", 0, (3, target), (1, "any"), (2, "any"))
    started = tools.run("kafka-reassign-partitions", "--execute", "--reassignment-json-file", plan,
                        "--replica-alter-log-dirs-throttle", "1000").stdout
    assert f"Successfully started moving log directory to {target} for replica t-0 with broker 3" in started, started
    assert in_dirs(node, "t", 0, True) == [target]
    verified = tools.run("kafka-reassign-partitions", "--verify", "--reassignment-json-file", plan, "--preserve-throttles").stdout
    assert "still in progress" in verified, verified
    described = tools.run("kafka-log-dirs", "--describe", "--broker-list", "3", "--topic-list", "t").lines
    (broker,) = json.loads(next(line for line in described if line.startswith("{")))["brokers"]
    copies = [partition for one in broker["logDirs"] if one["logDir"] == target for partition in one["partitions"]]
    assert len(copies) == 1 and copies[0]["isFuture"] and copies[0]["offsetLag"] > 0, described

    node.kill()
    cluster.restart(3)
    cluster.wait_in_sync("t")
    assert in_dirs(node, "t", 0, True) == [target] and in_dirs(node, "t", 0, False) == [source]
    tools.run("kafka-reassign-partitions", "--execute", "--additional", "--reassignment-json-file", plan,
              "--replica-alter-log-dirs-throttle", "100000000")
    wait_until(lambda: in_dirs(node, "t", 0, False) == [target] and not in_dirs(node, "t", 0, True), 60,
               f"the replica is moved\n{cluster.logs()}")
    verified = tools.run("kafka-reassign-partitions", "--verify", "--reassignment-json-file", plan).stdout
    assert "Reassignment of replica t-0-3 completed successfully" in verified, verified
    load.wait_for_more(1_000)
    node.kill()
    cluster.restart(3)
    cluster.wait_in_sync("t")
    load.finish()
    assert in_dirs(node, "t", 0, False) == [target] and not in_dirs(node, "t", 0, True)
    assert load.check(cluster.bootstrap) > 5_000
    cluster.check_replicas_equal("t")
