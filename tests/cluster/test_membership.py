"""Voters are added and removed, nodes decommissioned, on running clusters."""

import json
import re

import pytest
from harness.process import wait_until
from harness.tools import KafkaTools
from load import produce
from membership import TOOLS, add_voter, remove_voter, voters


@pytest.mark.short
def test_a_quorum_grows_from_one_to_three_and_shrinks_again(make_cluster, start_load):
    """A dynamic quorum: the first node starts alone, the others join as observers and are made voters."""
    cluster = make_cluster({"min.insync.replicas": "1", "offsets.topic.replication.factor": "1"})
    first = cluster.add(1)
    for node in (2, 3):
        cluster.add(node)
    for node in cluster.nodes.values():
        node.config["controller.quorum.bootstrap.servers"] = first.controller_address
    first.spawn()
    cluster.wait_ready([first])
    cluster.create_topic("t", replication=1)
    load = start_load(cluster, "t", 1, rate=200)
    load.wait_for_more(10)
    for node in (2, 3):
        cluster.nodes[node].spawn()
        cluster.wait_ready([cluster.nodes[node]])
        add_voter(cluster, node)
        wait_until(lambda: node in voters(cluster), 30, f"{node} is a voter")
    # Two of three decide without the one that was first.
    load.stop()
    first.kill()
    assert cluster.active_controller() in (2, 3)
    cluster.restart(1)
    remove_voter(cluster, 1)
    wait_until(lambda: voters(cluster) == {2, 3}, 30, "two voters")
    first.stop()
    cluster.create_topic("u", replication=2)
    for node in (2, 3):
        assert cluster.nodes[node].running()


@pytest.mark.short
def test_a_node_is_decommissioned(cluster, tmp_path):
    """Shrinking: its partitions are moved, it is stopped, its voter and its registration are removed."""
    cluster.add(4, "broker")
    cluster.set_voters(node for node in cluster.nodes.values() if node.is_controller)
    cluster.restart(4)
    cluster.create_topic("t", assignment=[[4, 1, 2], [1, 4, 3]])
    produce(cluster.bootstrap, "t", 1_000)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": "t", "partition": 0, "replicas": [3, 1, 2]}, {"topic": "t", "partition": 1, "replicas": [1, 2, 3]}]}))
    tools = cluster.tools()
    tools.run("kafka-reassign-partitions", "--reassignment-json-file", str(plan), "--execute")
    wait_until(lambda: len(re.findall("is completed", tools.run(
        "kafka-reassign-partitions", "--reassignment-json-file", str(plan), "--verify").stdout)) == 2, 60, "moved", poll_s=1)
    assert cluster.nodes[4].stop() == 0 or cluster.kind == "kafka"
    cluster.wait_fenced(4)
    where = ["--bootstrap-server", cluster.bootstrap]
    KafkaTools(TOOLS).run("kafka-cluster", "unregister", *where, "--id", "4")
    described = KafkaTools(TOOLS).run("kafka-cluster", "list-endpoints", *where, "--include-fenced-brokers").stdout
    assert not re.search(r"^4\b", described, re.MULTILINE), described
    produce(cluster.bootstrap, "t", 1_000, first=1_000)
    cluster.check_replicas_equal("t")


def test_leaders_go_back_to_whom_they_are_meant_for(cluster):
    """kafka-leader-election after a restart left all leadership elsewhere."""
    cluster.create_topic("t", assignment=[[1, 2, 3]])
    cluster.nodes[1].kill()
    cluster.wait_for_leader("t", lambda leader: leader != 1)
    cluster.restart(1)
    cluster.wait_in_sync("t")
    if cluster.leader("t") != 1:
        cluster.tools().run("kafka-leader-election", "--election-type", "preferred", "--topic", "t", "--partition", "0")
    cluster.wait_for_leader("t", lambda leader: leader == 1)


@pytest.mark.parametrize("version", ["3.9.0", "4.3.1"])
def test_the_quorum_is_described(cluster, version):
    tools = cluster.tools(version)
    status = tools.run("kafka-metadata-quorum", "describe", "--status").stdout
    assert re.search(rf"LeaderId:\s+{cluster.active_controller()}\b", status), status
    replication = tools.run("kafka-metadata-quorum", "describe", "--replication").stdout
    roles = {int(line.split()[0]): line.split()[-1] for line in replication.splitlines() if line[:1].isdigit()}
    assert sorted(roles) == [1, 2, 3] and sorted(roles.values()) == ["Follower", "Follower", "Leader"], replication
