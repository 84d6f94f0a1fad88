"""Disks that are full, gone, empty or old."""

import shutil

import pytest
from cluster import batches
from harness.process import wait_until
from load import check_records, read_all
from membership import add_voter, remove_voter, voters
from refusal import refused

PARTITIONS = 3
LAG = {"replica.lag.time.max.ms": "3000"}


def wait_for_progress(loads) -> None:
    for load in loads:
        load.wait_for_all_partitions(PARTITIONS)


def finish(cluster, *loads) -> None:
    wait_for_progress(loads)
    for load in loads:
        load.finish()
    cluster.wait_in_sync(*(load.topic for load in loads))
    for load in loads:
        assert load.check(cluster.bootstrap) > 100
        cluster.check_replicas_equal(load.topic)


@pytest.mark.short
@pytest.mark.parametrize("role", ["follower", "leader"])
def test_a_full_disk_on_one_node(ottla_only, make_cluster, loop_disk, start_load, role):
    """The others go on where they lead; nothing acknowledged is lost; all is well again when there is space.
    (Kafka takes the whole log directory offline.)"""
    disk = loop_disk(256)
    cluster = make_cluster(LAG)
    for node in (1, 2, 3):
        cluster.add(node)
    cluster.nodes[3].data_dir = disk.mount_point / "data"
    cluster.nodes[3].config["log.dirs"] = str(cluster.nodes[3].data_dir)
    cluster.start()
    first = 1 if role == "follower" else 3
    cluster.create_topic("t", assignment=[[first, *(node for node in (1, 2, 3) if node != first)]] * PARTITIONS)
    cluster.create_topic("beside", assignment=[[1, 2]] * PARTITIONS)
    load, beside = (start_load(cluster, topic, PARTITIONS, rate=200) for topic in ("t", "beside"))
    wait_for_progress([load, beside])
    filler = disk.fill()
    # What is led elsewhere must go on all the time, and what node 3 only follows when it has left the in-sync set.
    wait_for_progress([beside])
    if role == "follower":
        wait_until(lambda: all(3 not in partition.isr for partition in cluster.nodes[1].metadata("t").topics["t"].values()), 60,
                   f"node 3 has left the in-sync set\n{cluster.logs()}")
        wait_for_progress([load])
    wait_for_progress([beside])
    filler.unlink()
    finish(cluster, load, beside)


@pytest.mark.short
def test_a_dead_node_is_replaced_by_one_with_an_empty_disk(ottla_only, cluster, start_load):
    """A voter that forgot everything could help to elect a leader that lacks what was committed. It is refused until the
    operator says, by removing and adding the voter, that the old one will not come back."""
    cluster.create_topic("t", partitions=PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    wait_for_progress([load])
    victim = next(node for node in (1, 2, 3) if node != cluster.active_controller())
    cluster.nodes[victim].kill()
    shutil.rmtree(cluster.nodes[victim].data_dir)
    wait_for_progress([load])

    refused(cluster.nodes[victim], "remove the voter (kafka-metadata-quorum remove-controller --controller-id")
    replace_voter(cluster, victim)
    finish(cluster, load)
    cluster.tools().run("kafka-leader-election", "--election-type", "preferred", "--all-topic-partitions", check=False)
    for partition, state in cluster.brokers()[0].metadata("t").topics["t"].items():
        cluster.wait_for_leader("t", lambda leader: leader == state.replicas[0], partition)


def replace_voter(cluster, node: int) -> None:
    """As docs/operations.md tells."""
    remove_voter(cluster, node)
    cluster.restart(node)
    add_voter(cluster, node)
    wait_until(lambda: node in voters(cluster), 30, f"{node} is a voter again")


@pytest.mark.short
def test_an_old_copy_of_a_data_directory(ottla_only, cluster, start_load):
    """A backup of one node's directory, put back: what the voter acknowledged since then may have counted. Its peers remember
    it, and the way back is that of a dead node."""
    cluster.create_topic("t", partitions=PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    wait_for_progress([load])
    victim = next(node for node in (1, 2, 3) if node != cluster.active_controller())
    node = cluster.nodes[victim]
    node.stop()
    copy = node.directory / "copy"
    shutil.copytree(node.data_dir, copy)
    cluster.restart(victim)
    cluster.wait_in_sync("t")
    # So that the copy is older in the metadata as well.
    cluster.create_topic("later", partitions=PARTITIONS)
    wait_for_progress([load])
    node.kill()
    shutil.rmtree(node.data_dir)
    shutil.copytree(copy, node.data_dir)
    refused(node, f"the metadata of node {victim} in {node.data_dir}/__cluster_metadata-0 is an old copy", "acknowledged offset",
            "remove it from the voters")
    wait_for_progress([load])
    shutil.rmtree(node.data_dir)
    replace_voter(cluster, victim)
    finish(cluster, load)


def test_an_old_copy_of_a_brokers_directory(ottla_only, cluster, start_load):
    """As above, for a node that does not vote: what it lost counts for nobody, so it is enough to delete the metadata."""
    broker = cluster.add(4, "broker")
    cluster.set_voters(cluster.nodes[node] for node in (1, 2, 3))
    cluster.restart(4)
    cluster.create_topic("t", assignment=[[4, 1, 2]] * PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    wait_for_progress([load])
    broker.stop()
    copy = broker.directory / "copy"
    shutil.copytree(broker.data_dir, copy)
    cluster.restart(4)
    cluster.wait_in_sync("t")
    cluster.create_topic("later", assignment=[[4, 1, 2]] * PARTITIONS)
    wait_for_progress([load])
    broker.kill()
    shutil.rmtree(broker.data_dir)
    shutil.copytree(copy, broker.data_dir)
    refused(broker, "is an old copy", "Delete that directory")
    shutil.rmtree(broker.data_dir / "__cluster_metadata-0")
    cluster.restart(4)
    finish(cluster, load)
    cluster.tools().run("kafka-leader-election", "--election-type", "preferred", "--all-topic-partitions", check=False)
    for topic in ("t", "later"):
        for partition in range(PARTITIONS):
            cluster.wait_for_leader(topic, lambda leader: leader == 4, partition)


def test_an_old_copy_of_the_partitions(cluster, start_load):
    """Only of what lies beside the metadata: the node is let in, and made to catch up before it counts."""
    cluster.create_topic("t", assignment=[[3, 1, 2]] * PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    wait_for_progress([load])
    node = cluster.nodes[3]
    node.stop()
    copy = node.directory / "copy"
    shutil.copytree(node.data_dir, copy, ignore=shutil.ignore_patterns("__cluster_metadata-0"))
    cluster.restart(3)
    cluster.wait_in_sync("t")
    wait_for_progress([load])
    node.kill()
    for path in node.data_dir.iterdir():
        if path.name != "__cluster_metadata-0":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(copy, node.data_dir, dirs_exist_ok=True)
    cluster.restart(3)
    finish(cluster, load)


def test_a_partition_directory_that_vanished(cluster, start_load):
    """One partition of a follower is gone; the node takes it anew from the leader."""
    cluster.create_topic("t", assignment=[[1, 2, 3]] * PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, rate=200)
    wait_for_progress([load])
    cluster.nodes[3].stop()
    shutil.rmtree(cluster.nodes[3].partition_dir("t", 0))
    cluster.restart(3)
    finish(cluster, load)


def test_a_lagging_node_catches_up(make_cluster, start_load):
    """While a node is away, retention deletes what it has not: it starts again at the leader's log start."""
    cluster = make_cluster({"log.retention.check.interval.ms": "500", "log.segment.delete.delay.ms": "100"}).start(3)
    cluster.create_topic("t", assignment=[[1, 2, 3]], segment_bytes=1 << 20, retention_bytes=1 << 20, retention_ms=-1)
    load = start_load(cluster, "t", 1, rate=20_000)
    load.wait_for_more(1_000)
    cluster.nodes[3].kill()
    first_segment = cluster.nodes[1].partition_dir("t", 0) / f"{0:020}.log"
    wait_until(lambda: not first_segment.exists(), 90, "retention has deleted the first segment")
    load.wait_for_more(1_000)
    cluster.restart(3)
    cluster.wait_in_sync("t", timeout_s=90)
    told = load.finish()
    records = read_all(cluster.bootstrap, "t")
    assert records[0][0][0] > 0
    assert check_records(told, records, {0: records[0][0][0]}) > 1_000
    own = batches(cluster.nodes[3].partition_dir("t", 0))
    leading = batches(cluster.nodes[1].partition_dir("t", 0))
    common = own.keys() & leading.keys()
    assert common and all(own[base] == leading[base] for base in common) and max(own) == max(leading)


@pytest.mark.short
def test_a_lagging_node_catches_up_by_snapshot(ottla_only, make_cluster):
    """The metadata log is cut while a node is away; it is given the snapshot and what came after."""
    cluster = make_cluster({"metadata.log.max.record.bytes.between.snapshots": "2048"}).start(3)
    victim = next(node for node in (1, 2, 3) if node != cluster.active_controller())
    cluster.nodes[victim].kill()
    rest = [node for node in (1, 2, 3) if node != victim]
    for number in range(60):
        cluster.create_topic(f"t{number}", assignment=[rest])
    cluster.restart(victim)
    wait_until(lambda: len(cluster.nodes[victim].metadata().topics) >= 60, 30, "the node knows all topics")
    for node in rest:
        cluster.nodes[node].kill()
        cluster.restart(node)
    assert len(cluster.nodes[victim].metadata().topics) >= 60
