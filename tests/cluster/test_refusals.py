"""What does not belong into the cluster is refused with a sentence that says why, and nothing is lost by its coming.

Exit codes: 2 for a configuration, 3 for a node that cannot start (broker/src/main.rs).
"""

import os
import re
import shutil
import socket
import struct
import time
from pathlib import Path

import pytest
from harness.process import wait_until
from load import produce, read_all, value_of

pytestmark = pytest.mark.usefixtures("ottla_only")

CANNOT_START = 3
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def refused(node, *words: str, timeout_s: float = 30) -> None:
    """The node ends by itself and says all of these words."""
    node.spawn()
    node.should_run = False
    code = node.process.wait(timeout_s)
    assert code == CANNOT_START, node.log()
    for word in words:
        assert word in node.said(), f"not said: {word}\n{node.log()}"
    assert "panicked" not in node.said(), node.log()


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
def test_two_nodes_with_one_id(cluster):
    """A second node 3 with an empty directory, while the first one lives."""
    second = cluster.add(9, "broker")
    second.config["node.id"] = "3"
    cluster.set_voters(cluster.nodes[node] for node in (1, 2, 3))
    second.config["controller.quorum.voters"] = cluster.nodes[1].config["controller.quorum.voters"]
    # A broker-only node must not be among the voters, so it looks for the quorum by its addresses.
    del second.config["controller.quorum.voters"]
    second.config["controller.quorum.bootstrap.servers"] = ",".join(
        cluster.nodes[node].controller_address for node in (1, 2, 3))
    refused(second, "3")
    assert cluster.nodes[3].running() and 3 in cluster.nodes[1].metadata().brokers
    assert cluster.nodes[1].metadata().brokers[3][0] == cluster.nodes[3].address, "the second node took the first one's place"
    still_whole(cluster, 100)


def test_a_voter_list_that_disagrees(cluster):
    """A fourth controller that lists itself as a voter of a quorum that does not know it: the membership in the metadata log
    counts. It may look on, but not vote."""
    fourth = cluster.add(4, "broker,controller")
    fourth.config["controller.quorum.voters"] = (
        cluster.nodes[1].config["controller.quorum.voters"] + f",4@{fourth.controller_address}")
    fourth.spawn()
    fourth.should_run = False
    wait_until(lambda: not fourth.running() or fourth._ready(), 30, "refused or in the cluster")
    assert "controller.quorum.voters" in fourth.said(), fourth.log()
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
    wait_until(lambda: any(not node.running() for node in cluster.nodes.values()), 30, "somebody is refused")
    time.sleep(3)
    ready = [node.id for node in cluster.nodes.values() if node.running() and node._ready()]
    assert not ready, f"{ready} founded a cluster\n{cluster.logs()}"
    for node in cluster.nodes.values():
        assert node.running() or "controller.quorum.voters" in node.said(), node.log()


def test_a_voter_list_with_another_address(cluster):
    """A restarted node whose list names a voter elsewhere goes on by the membership in the log, or is refused; it must not
    split the quorum."""
    node = cluster.nodes[3]
    node.stop()
    node.config["controller.quorum.voters"] = node.config["controller.quorum.voters"].replace(
        cluster.nodes[1].controller_address, f"{cluster.nodes[1].address}:19999")
    node.spawn()
    node.should_run = False
    wait_until(lambda: not node.running() or node._ready(), 30, "refused or in the cluster")
    if not node.running():
        assert "controller.quorum.voters" in node.said(), node.log()
        node.config["controller.quorum.voters"] = cluster.nodes[1].config["controller.quorum.voters"]
        cluster.restart(3)
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
    refused(node, "voter")
    still_whole(cluster, 100)


@pytest.mark.short
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
    if not FAKETIME.exists():
        pytest.skip("libfaketime is not there")
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
    time.sleep(2)
    assert all(one.running() for one in cluster.nodes.values())
    assert len(read_all(cluster.bootstrap, "led")[0]) == 100
    still_whole(cluster, 220)
