"""Nodes become a cluster: what a start, a restart and a newcomer look like from outside."""

import re
import signal

import pytest
from harness.process import wait_until
from load import produce, read_all, value_of


@pytest.mark.short
def test_three_nodes_replicate(cluster):
    views = [node.metadata() for node in cluster.nodes.values()]
    assert len({view.cluster_id for view in views}) == 1 and views[0].cluster_id
    assert all(set(view.brokers) == {1, 2, 3} for view in views)
    quorum = cluster.nodes[cluster.active_controller()].quorum()
    assert set(quorum.voters) == {1, 2, 3} and not quorum.observers

    cluster.create_topic("t", partitions=6)
    leaders = {partition.leader for partition in cluster.brokers()[0].metadata("t").topics["t"].values()}
    assert leaders == {1, 2, 3}, "leadership is spread"
    for partition in range(6):
        produce(cluster.bootstrap, "t", 100, partition=partition)
    found = read_all(cluster.bootstrap, "t")
    assert all([value for _, value in found[partition]] == [value_of(number) for number in range(100)] for partition in range(6))
    cluster.check_replicas_equal("t")


def test_all_nodes_stop_and_start(cluster):
    """What was acknowledged is there after everything was down, however it went down."""
    cluster.create_topic("t")
    cluster_id = cluster.nodes[1].metadata().cluster_id
    produce(cluster.bootstrap, "t", 100)
    for node in cluster.nodes.values():
        node.kill()
    for node in cluster.nodes.values():
        node.spawn()
    cluster.wait_ready(cluster.nodes.values())
    cluster.wait_in_sync("t")
    produce(cluster.bootstrap, "t", 100, first=100)
    # The last of a quorum has nobody to hand over to and must end by itself all the same; Kafka waits for minutes.
    if cluster.kind == "ottla":
        for node in cluster.nodes.values():
            node.should_run = False
            node.process.signal(signal.SIGTERM)
        assert [node.process.wait(30) for node in cluster.nodes.values()] == [0, 0, 0]
    else:
        for node in cluster.nodes.values():
            node.kill()
    for node in cluster.nodes.values():
        node.spawn()
    cluster.wait_ready(cluster.nodes.values())
    assert {node.metadata().cluster_id for node in cluster.nodes.values()} == {cluster_id}
    assert [value for _, value in read_all(cluster.bootstrap, "t")[0]] == [value_of(number) for number in range(200)]


def test_two_of_three_are_enough(make_cluster):
    """A cluster starts and serves while one of its voters was never there; that one joins later."""
    cluster = make_cluster()
    for node in (1, 2, 3):
        cluster.add(node)
    cluster.set_voters(cluster.nodes.values())
    for node in (1, 2):
        cluster.nodes[node].spawn()
    cluster.wait_ready([cluster.nodes[1], cluster.nodes[2]])
    cluster.create_topic("t", replication=2)
    produce(cluster.bootstrap, "t", 10)
    cluster.restart(3)
    assert cluster.nodes[3].metadata().cluster_id == cluster.nodes[1].metadata().cluster_id
    wait_until(lambda: set(cluster.nodes[cluster.active_controller()].quorum().voters) == {1, 2, 3}, 10, "three voters")


@pytest.mark.short
def test_brokers_and_controllers_apart(make_cluster):
    """Three nodes that are controllers only and three that are brokers only."""
    cluster = make_cluster()
    for node in (1, 2, 3):
        cluster.add(node, "controller")
    for node in (11, 12, 13):
        cluster.add(node, "broker")
    cluster.start()
    assert set(cluster.nodes[11].metadata().brokers) == {11, 12, 13}
    quorum = cluster.nodes[cluster.active_controller()].quorum()
    assert set(quorum.voters) == {1, 2, 3} and set(quorum.observers) == {11, 12, 13}
    cluster.create_topic("t", partitions=3)
    produce(cluster.bootstrap, "t", 10)

    cluster.nodes[cluster.active_controller()].kill()
    cluster.active_controller()
    cluster.create_topic("u", partitions=3)
    produce(cluster.bootstrap, "u", 10)
    cluster.nodes[cluster.leader("t")].kill()
    produce(cluster.bootstrap, "t", 10, first=10)
    assert [value for _, value in read_all(cluster.bootstrap, "t")[0]] == [value_of(number) for number in range(20)]


def test_a_new_broker_joins_and_takes_partitions(cluster, tmp_path):
    """Growing: a fourth node is started beside the others and given a replica of what is there."""
    cluster.create_topic("t", assignment=[[1, 2, 3], [2, 3, 1]])
    produce(cluster.bootstrap, "t", 1_000)
    cluster.add(4, "broker")
    cluster.set_voters(node for node in cluster.nodes.values() if node.is_controller)
    cluster.restart(4)
    cluster.create_topic("u", assignment=[[4, 1, 2]])
    produce(cluster.bootstrap, "u", 10)

    plan = tmp_path / "plan.json"
    plan.write_text('{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[4,2,3]},'
                    '{"topic":"t","partition":1,"replicas":[2,3,4]}]}')
    tools = cluster.tools()
    tools.run("kafka-reassign-partitions", "--reassignment-json-file", str(plan), "--execute")

    def done() -> bool:
        verified = tools.run("kafka-reassign-partitions", "--reassignment-json-file", str(plan), "--verify").stdout
        return len(re.findall("is completed", verified)) == 2
    wait_until(done, 60, "the reassignment is complete", poll_s=1)
    cluster.wait_for_leader("t", lambda leader: leader in (4, 2, 3))
    assert cluster.partition("t", 0).replicas == [4, 2, 3] and cluster.partition("t", 1).replicas == [2, 3, 4]
    assert [value for _, value in read_all(cluster.bootstrap, "t")[0]] == [value_of(number) for number in range(1_000)]
    cluster.check_replicas_equal("t")
    wait_until(lambda: not cluster.nodes[1].partition_dir("t", 0).exists(), 90, "node 1 has deleted what it no longer holds")
