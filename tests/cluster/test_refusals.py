"""What does not belong into the cluster is refused with a sentence that says why, and nothing is lost by its coming.
"""

import os
import re
import shutil
import socket
import struct
from pathlib import Path

import pytest
from harness.process import wait_until
from load import produce, read_all, value_of
from refusal import refused

pytestmark = pytest.mark.usefixtures("ottla_only")

# Where Debian puts it, whatever the machine's architecture.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def still_whole(cluster, records: int) -> None:
    """The three nodes work and hold what they held."""
    produce(cluster.bootstrap, "t", 10, first=records)
    assert [value for _, value in read_all(cluster.bootstrap, "t")[0]] == [value_of(number) for number in range(records + 10)]
    cluster.check_replicas_equal("t")


@pytest.fixture
def cluster(cluster):
    cluster.create_topic("t", assignment=[[1, 2, 3]])
    produce(cluster.bootstrap, "t", 100)
    return cluster


def cluster_id(node) -> str:
    return re.search("cluster.id=(.*)", (node.data_dir / "meta.properties").read_text())[1]


@pytest.mark.short
def test_a_node_of_another_cluster(cluster, make_cluster):
    """A broker whose directory belongs to another cluster is pointed at this one."""
    other = make_cluster({"offsets.topic.replication.factor": "1", "min.insync.replicas": "1"}).start(1)
    other.nodes[1].stop()
    stranger = cluster.add(7, "broker")
    shutil.copytree(other.nodes[1].data_dir, stranger.data_dir)
    for file in stranger.data_dir.glob("meta.properties"):
        file.write_text(file.read_text().replace("node.id=1", "node.id=7"))
    for metadata in stranger.data_dir.glob("__cluster_metadata*"):
        shutil.rmtree(metadata)
    cluster.set_voters(cluster.nodes[node] for node in (1, 2, 3))
    refused(stranger, cluster_id(other.nodes[1]), cluster_id(cluster.nodes[1]))
    still_whole(cluster, 100)


@pytest.mark.short
def test_a_controller_of_another_cluster(cluster, make_cluster):
    """One that was all of a cluster of its own gets the configuration of this one, in which it is a voter. With its own disk it
    would go on as what it was, beside this cluster."""
    other = make_cluster({"offsets.topic.replication.factor": "1", "min.insync.replicas": "1"}).start(1)
    other.nodes[1].stop()
    stranger = cluster.add(7)
    shutil.copytree(other.nodes[1].data_dir, stranger.data_dir)
    node_id = re.compile(r"(node.id=|\"node_id\": )1\b")
    for file in (stranger.data_dir / "meta.properties", stranger.data_dir / "__cluster_metadata-0" / "identity.json"):
        file.write_text(node_id.sub(r"\g<1>7", file.read_text()))
    stranger.config["controller.quorum.voters"] = (
        cluster.nodes[1].config["controller.quorum.voters"] + f",7@{stranger.controller_address}")
    refused(stranger, "this node belongs to cluster " + cluster_id(other.nodes[1]), "is cluster " + cluster_id(cluster.nodes[1]))
    still_whole(cluster, 100)


def second_of(cluster, node: int, roles: str):
    """A process with the same node.id, elsewhere."""
    second = cluster.add(9, roles)
    second.config["node.id"] = str(node)
    second.config["controller.quorum.voters"] = cluster.nodes[1].config["controller.quorum.voters"]
    if roles == "broker":
        # A node that is only a broker must not be among the voters, so it looks for the quorum by its addresses.
        del second.config["controller.quorum.voters"]
        second.config["controller.quorum.bootstrap.servers"] = ",".join(
            cluster.nodes[node].controller_address for node in (1, 2, 3))
    return second


def first_keeps_its_place(cluster, node: int) -> None:
    first = cluster.nodes[node]
    assert first.running() and cluster.nodes[1].metadata().brokers[node][0] == first.address
    still_whole(cluster, 100)


@pytest.mark.short
@pytest.mark.parametrize("roles", ["broker", "broker,controller"])
def test_two_nodes_with_one_id(cluster, roles):
    """A second node 3 with an empty directory, while the first one lives."""
    refused(second_of(cluster, 3, roles), "voter 3 is known at " + cluster.nodes[3].controller_address, "two nodes have node.id 3")
    first_keeps_its_place(cluster, 3)


@pytest.mark.short
def test_a_cloned_machine(cluster):
    """The second node 3 has a copy of all that the first one has: everything in it is right, but both would vote."""
    second = second_of(cluster, 3, "broker,controller")
    shutil.copytree(cluster.nodes[3].data_dir, second.data_dir)
    refused(second, "another node runs with node.id 3, at " + cluster.nodes[3].controller_address, str(second.data_dir), "a copy")
    first_keeps_its_place(cluster, 3)


def test_two_brokers_with_one_id(cluster):
    """As above, for a node that does not vote."""
    fourth = cluster.add(4, "broker")
    cluster.set_voters(cluster.nodes[node] for node in (1, 2, 3))
    cluster.restart(4)
    second = second_of(cluster, 4, "broker")
    refused(second, "another node runs with node.id 4, at " + fourth.bootstrap)
    shutil.rmtree(second.data_dir)
    shutil.copytree(fourth.data_dir, second.data_dir)
    refused(second, "another node runs with node.id 4, at " + fourth.bootstrap, str(second.data_dir), "a copy")
    first_keeps_its_place(cluster, 4)


@pytest.mark.short
def test_a_voter_list_that_disagrees(cluster):
    """A fourth controller that lists itself as a voter of a quorum that does not know it: the membership in the metadata log
    counts. It may look on, but not vote."""
    fourth = cluster.add(4, "broker,controller")
    fourth.config["controller.quorum.voters"] = (
        cluster.nodes[1].config["controller.quorum.voters"] + f",4@{fourth.controller_address}")
    cluster.restart(4)
    for words in ("controller.quorum.voters differs from the voters in the metadata log", "this controller has no vote"):
        assert words in fourth.said(), fourth.log()
    assert set(cluster.nodes[cluster.active_controller()].quorum().voters) == {1, 2, 3}
    still_whole(cluster, 100)


def test_voter_lists_that_never_agreed(make_cluster):
    """A first start where each of three nodes lists only itself and one other who says otherwise: nobody founds a cluster that
    others do not take part in."""
    cluster = make_cluster()
    for node in (1, 2, 3):
        cluster.add(node)
    for node, other in ((1, 2), (2, 3), (3, 1)):
        cluster.nodes[node].config["controller.quorum.voters"] = ",".join(
            f"{one}@{cluster.nodes[one].controller_address}" for one in (node, other))
        cluster.nodes[node].spawn()
        cluster.nodes[node].should_run = False
    # Who is left when the first are refused waits for voters that are not there, and says so.
    wait_until(lambda: all(not node.running() or "waiting: for a majority of controller.quorum.voters" in node.said()
                           for node in cluster.nodes.values()), 30, f"each is refused or waits\n{cluster.logs()}")
    ready = [node.id for node in cluster.nodes.values() if node.running() and node._ready()]
    assert not ready, f"{ready} founded a cluster\n{cluster.logs()}"
    ended = [node for node in cluster.nodes.values() if not node.running()]
    assert ended, cluster.logs()
    for node in ended:
        assert "too few voters agree: it must be the same on all nodes" in node.said(), node.log()


def test_a_voter_list_with_another_address(cluster):
    """A restarted node whose list names a voter elsewhere goes on by the membership in the log, and says so."""
    node = cluster.nodes[3]
    node.stop()
    node.config["controller.quorum.voters"] = node.config["controller.quorum.voters"].replace(
        cluster.nodes[1].controller_address, f"{cluster.nodes[1].address}:19999")
    cluster.restart(3)
    assert "controller.quorum.voters differs from the voters in the metadata log" in node.said(), node.log()
    assert set(cluster.nodes[cluster.active_controller()].quorum().voters) == {1, 2, 3}
    cluster.wait_in_sync("t")
    still_whole(cluster, 100)


def test_a_directory_of_another_node(cluster):
    node = cluster.nodes[3]
    node.stop()
    voters = node.config["controller.quorum.voters"]
    node.config["node.id"] = "5"
    node.config["controller.quorum.voters"] = voters.replace("3@", "5@")
    refused(node, str(node.data_dir), "3", "5")
    node.config["node.id"] = "3"
    node.config["controller.quorum.voters"] = voters
    cluster.restart(3)
    cluster.wait_in_sync("t")
    still_whole(cluster, 100)


@pytest.mark.short
def test_a_data_directory_that_vanished(cluster):
    """A voter that comes back with nothing: it promised things that it has forgotten."""
    node = cluster.nodes[3]
    node.kill()
    shutil.rmtree(node.data_dir)
    refused(node, "the directory of this one is lost", "kafka-metadata-quorum remove-controller --controller-id 3")
    still_whole(cluster, 100)


@pytest.mark.short
def test_the_metadata_of_a_single_node_vanished(make_cluster):
    """Nobody else knows whose the partitions are: the node must not begin a cluster over them."""
    cluster = make_cluster({"offsets.topic.replication.factor": "1", "min.insync.replicas": "1"}).start(1)
    cluster.create_topic("t", replication=1)
    produce(cluster.bootstrap, "t", 100)
    node = cluster.nodes[1]
    node.stop()
    metadata, away = node.data_dir / "__cluster_metadata-0", node.directory / "away"
    metadata.rename(away)
    refused(node, f"{metadata} has vanished", "metadata.log.dir")
    shutil.rmtree(metadata, ignore_errors=True)
    away.rename(metadata)
    cluster.restart(1)
    still_whole(cluster, 100)


def test_a_directory_of_a_broker_vanished(cluster):
    """One that does not vote forgets nothing that counts: it copies everything from the others, and may lead again."""
    fourth = cluster.add(4, "broker")
    cluster.set_voters(cluster.nodes[node] for node in (1, 2, 3))
    cluster.restart(4)
    cluster.create_topic("u", assignment=[[4, 1, 2]])
    produce(cluster.bootstrap, "u", 100)
    fourth.kill()
    shutil.rmtree(fourth.data_dir)
    cluster.restart(4)
    cluster.wait_in_sync("u")
    cluster.check_replicas_equal("u")
    cluster.tools().run("kafka-leader-election", "--election-type", "preferred", "--topic", "u", "--partition", "0", check=False)
    cluster.wait_for_leader("u", lambda leader: leader == 4)
    assert len(read_all(cluster.bootstrap, "u")[0]) == 100
    still_whole(cluster, 100)


@pytest.mark.short
@pytest.mark.short
def test_the_metadata_of_a_single_node_vanished(make_cluster, tmp_path):
    """Its partitions are still there, but nobody knows what they are any more: a new cluster would take them for rubbish."""
    cluster = make_cluster({"default.replication.factor": "1", "min.insync.replicas": "1", "offsets.topic.replication.factor": "1"})
    node = cluster.add(1)
    metadata = tmp_path / "metadata"
    node.config["metadata.log.dir"] = str(metadata)
    cluster.start()
    cluster.create_topic("t", replication=1)
    produce(cluster.bootstrap, "t", 100)
    node.stop()
    before = sorted(str(path) for path in node.data_dir.rglob("*"))
    aside = tmp_path / "aside"
    metadata.rename(aside)
    refused(node, "has vanished, but partitions lie in the log directories")
    # Also without what says whose the directory is.
    whose = (node.data_dir / "meta.properties").read_bytes()
    (node.data_dir / "meta.properties").unlink()
    refused(node, "has vanished, but partitions lie in the log directories")
    (node.data_dir / "meta.properties").write_bytes(whose)
    assert sorted(str(path) for path in node.data_dir.rglob("*")) == before, "nothing was changed"

    shutil.rmtree(metadata, ignore_errors=True)
    aside.rename(metadata)
    cluster.restart(1)
    assert [value for _, value in read_all(cluster.bootstrap, "t")[0]] == [value_of(number) for number in range(100)]


@pytest.mark.parametrize("port", ["controller_port", "port"])
def test_a_peer_that_speaks_nonsense(cluster, port):
    """Random bytes, half frames, huge lengths and broken peer requests, on every listener of every node."""
    private_key = 10_000
    well_framed = struct.pack(">hhih", private_key, 0, 7, 4) + b"peer" + os.urandom(200)
    attempts = [
        os.urandom(1_000), b"GET / HTTP/1.1\r\n\r\n", struct.pack(">i", 2**31 - 1), struct.pack(">i", -1) + b"x" * 10,
        struct.pack(">i", 200) + b"half",
        struct.pack(">i", len(well_framed)) + well_framed,
        struct.pack(">i", 8) + struct.pack(">hhi", private_key, 0, 7),
        struct.pack(">i", 30) + struct.pack(">hhih", private_key, 32_000, 7, -1) + b"\x84" * 20,
        struct.pack(">i", 70_000) + struct.pack(">hhih", private_key, 0, 7, -1) + b"\xdf\xff\xff\xff\xff" * 13_998,
    ]
    memory = {node.id: node.memory_mb() for node in cluster.nodes.values()}
    for node in cluster.nodes.values():
        for attempt in attempts * 5:
            with socket.create_connection((node.address, getattr(node, port)), timeout=2) as connection:
                connection.settimeout(0.2)
                try:
                    connection.sendall(attempt)
                    connection.recv(1_000)
                except OSError:
                    pass
    for node in cluster.nodes.values():
        assert node.running() and node.memory_mb() < memory[node.id] + 100
    cluster.check_alive()
    still_whole(cluster, 100)


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_an_hour_off(cluster, offset, monkeypatch):
    """One node lives in another hour: it takes part, and time in the cluster's decisions is nobody's wall clock."""
    if FAKETIME is None:
        pytest.skip("libfaketime is not there: tests/setup.sh installs it")
    node = cluster.nodes[3]
    node.stop()
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME", offset)
    # Monotonic time stays as it is: a clock that is wrong does not run at another speed.
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    node.spawn()
    monkeypatch.undo()
    cluster.wait_ready(cluster.nodes.values())
    cluster.wait_in_sync("t")
    # It leads and it follows, it is the active controller and it is not.
    cluster.create_topic("led", assignment=[[3, 1, 2]])
    produce(cluster.bootstrap, "led", 100)
    produce(cluster.bootstrap, "t", 100, first=100)
    for victim in (1, 2):
        cluster.nodes[victim].kill()
        produce(cluster.bootstrap, "t", 10, first=200 + 10 * (victim - 1))
        cluster.restart(victim)
        cluster.wait_in_sync("t", "led")
    assert all(one.running() for one in cluster.nodes.values())
    assert len(read_all(cluster.bootstrap, "led")[0]) == 100
    still_whole(cluster, 220)
