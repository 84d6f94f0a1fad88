"""Links between nodes are cut, in both directions and in one, by silence and by refusal, while clients reach every node."""

import time

import pytest
from cluster import seconds_since
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from harness.process import wait_until
from load import quiet, value_of

# Shorter than by default (30 s), for a follower that the leader does not hear of any more.
LAG = {"replica.lag.time.max.ms": "3000"}
OTHERS = {1: (2, 3), 2: (1, 3), 3: (1, 2)}


@pytest.fixture
def cluster(make_cluster):
    return make_cluster(LAG).start(3)


@pytest.fixture
def loads(cluster, links, start_load):
    """Writers to a topic that node 1 leads. They give a request up after two seconds, so that what a node that nobody hears
    holds back is sent to another."""
    cluster.create_topic("exactly", assignment=[[1, 2, 3]] * 3)
    cluster.create_topic("plain", assignment=[[1, 2, 3]] * 3)
    made = [start_load(cluster, topic, 3, idempotent=topic == "exactly", rate=300,
                       **{"request.timeout.ms": 2_000, "socket.timeout.ms": 3_000, "topic.metadata.refresh.interval.ms": 1_000})
            for topic in ("exactly", "plain")]
    for load in made:
        load.wait_for_all_partitions(3)
    return made


def finish(cluster, loads) -> None:
    cluster.network.heal()
    cluster.wait_ready(cluster.nodes.values())
    for load in loads:
        load.wait_for_all_partitions(3)
    for load in loads:
        load.finish()
    cluster.wait_in_sync("exactly", "plain")
    for load in loads:
        assert load.check(cluster.bootstrap) > 100
        cluster.check_replicas_equal(load.topic)


def led_by_another(cluster, node: int) -> None:
    """The two others agree that another one leads all partitions of both topics."""
    def moved() -> bool:
        try:
            return all(partition.leader not in (node, -1)
                       for other in OTHERS[node] for topic in ("exactly", "plain")
                       for partition in cluster.nodes[other].metadata(topic).topics[topic].values())
        except (OSError, KeyError):
            return False
    wait_until(moved, 30, f"node {node} leads nothing any more\n{cluster.logs()}")


@pytest.mark.short
def test_a_leader_is_cut_off_and_acknowledges_nothing_more(cluster, links, loads):
    """Clients still reach it. It may take their records, but without the others it must not acknowledge them with acks=all,
    and what it took must be gone when it is back."""
    cluster.isolate(1)
    begin = time.monotonic()
    led_by_another(cluster, 1)
    stranded = Producer({"bootstrap.servers": cluster.nodes[1].bootstrap, "acks": "all", "message.timeout.ms": 4_000,
                         "topic.metadata.refresh.interval.ms": -1})
    outcomes = []
    stranded.produce("plain", value_of(10_000_000), partition=0, on_delivery=lambda error, message: outcomes.append(error))
    for load in loads:
        load.wait_for_all_partitions(3)
    assert seconds_since(begin) < 60
    assert stranded.flush(10) == 0
    finish(cluster, loads)
    if outcomes[0] is None:
        # It was sent on to the new leader by a client that knew better.
        assert cluster.partition("plain").leader_epoch > 0


def test_a_leader_is_refused_by_the_others(cluster, links, loads):
    """As when a firewall answers with resets."""
    for other in OTHERS[1]:
        links.refuse(1, other)
        links.refuse(other, 1)
    led_by_another(cluster, 1)
    for load in loads:
        load.wait_for_all_partitions(3)
    finish(cluster, loads)


def test_a_leader_hears_the_others_but_is_not_heard(cluster, links, loads):
    for other in OTHERS[1]:
        links.cut(1, other)
    led_by_another(cluster, 1)
    for load in loads:
        load.wait_for_all_partitions(3)
    finish(cluster, loads)


def test_a_leader_is_heard_but_does_not_hear(cluster, links, loads):
    for other in OTHERS[1]:
        links.cut(other, 1)
    led_by_another(cluster, 1)
    for load in loads:
        load.wait_for_all_partitions(3)
    finish(cluster, loads)


@pytest.mark.parametrize("direction", ["both", "to the follower", "to the leader"])
def test_a_follower_loses_its_leader_only(cluster, links, loads, direction):
    """Node 3 and node 1 do not hear each other; both hear node 2. Node 3 leaves the in-sync set and comes back by itself; if
    node 1 was the active controller, somebody else may have become leader instead."""
    if direction != "to the leader":
        links.cut(1, 3)
    if direction != "to the follower":
        links.cut(3, 1)

    def parted() -> bool:
        try:
            found = [cluster.nodes[2].metadata(topic).topics[topic] for topic in ("exactly", "plain")]
        except (OSError, KeyError):
            return False
        return all(not {1, 3} <= set(partition.isr) for partitions in found for partition in partitions.values())
    wait_until(parted, 60, f"1 and 3 are not both in sync\n{cluster.logs()}")
    for load in loads:
        load.wait_for_all_partitions(3)
    finish(cluster, loads)


def test_a_follower_is_cut_off(cluster, links, loads):
    """The cluster goes on with two, and the third is in sync again when it is back."""
    cluster.isolate(3)

    def shrunk() -> bool:
        try:
            return all(3 not in partition.isr for partition in cluster.nodes[2].metadata("exactly").topics["exactly"].values())
        except (OSError, KeyError):
            return False
    wait_until(shrunk, 30, "node 3 leaves the in-sync set")
    for load in loads:
        load.wait_for_all_partitions(3)
    finish(cluster, loads)


def test_links_flap(cluster, links, loads):
    """Each node is cut off for a moment, several times round, shorter and longer than a session."""
    for length_s in (0.3, 1, 5):
        for node in (1, 2, 3):
            cluster.isolate(node)
            time.sleep(length_s)
            links.heal()
            for load in loads:
                load.wait_for_all_partitions(3)
    finish(cluster, loads)


def test_the_active_controller_is_cut_off(cluster, links, loads):
    """It must not decide anything more, and what was asked of it meanwhile must not appear later."""
    victim = cluster.active_controller()
    cluster.isolate(victim)
    cluster.active_controller(other_than=victim)
    one = cluster.nodes[OTHERS[victim][0]]
    wait_until(lambda: victim not in one.metadata().brokers, 30, "the one that is cut off is fenced")
    admin = AdminClient({"bootstrap.servers": cluster.nodes[victim].bootstrap}, logger=quiet)
    future = admin.create_topics([NewTopic("late", 1, 1)], operation_timeout=3, request_timeout=3)["late"]
    # A client may follow the metadata to another node, or its request may be carried on when the link is back.
    created = future.exception(30) is None
    for load in loads:
        load.wait_for_all_partitions(3)
    finish(cluster, loads)
    assert [node.id for node in cluster.nodes.values() if node.quorum().leader == node.id == cluster.active_controller()]
    seen = {"late" in node.metadata().topics for node in cluster.nodes.values()}
    assert len(seen) == 1 and (seen == {True} or not created), cluster.logs()
