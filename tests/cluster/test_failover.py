"""Nodes die, stop answering and are restarted under load: every acknowledged record is there, and of an idempotent producer
exactly once and in order."""

import time

import pytest
from cluster import seconds_since
from confluent_kafka import Producer
from load import quiet, value_of

PARTITIONS = 6
# Time limits of the tests are those of a debug build on a busy machine; tests/cluster/targets.py measures.
SOON_S = 20


@pytest.fixture
def loads(cluster, start_load):
    """An idempotent and a plain producer of librdkafka, an idempotent one of Kafka's own; each writes a topic of its own."""
    return start_loads(cluster, start_load)


def start_loads(cluster, start_load) -> list:
    made = []
    for topic, client, idempotent in [("exactly", "librdkafka", True), ("plain", "librdkafka", False), ("java", "java", True)]:
        cluster.create_topic(topic, partitions=PARTITIONS)
        made.append(start_load(cluster, topic, PARTITIONS, client, idempotent=idempotent, rate=500))
    for load in made:
        load.wait_for_all_partitions(PARTITIONS)
    return made


def finish(cluster, loads) -> None:
    """Ends the producers and checks all they were told, on every replica."""
    for load in loads:
        load.wait_for_all_partitions(PARTITIONS)
    for load in loads:
        load.finish()
    cluster.wait_in_sync(*(load.topic for load in loads))
    for load in loads:
        assert load.check(cluster.bootstrap) > 100
        cluster.check_replicas_equal(load.topic)


@pytest.mark.short
def test_a_leader_is_killed(cluster, loads):
    for _ in range(2):
        victim = cluster.leader("exactly")
        cluster.nodes[victim].kill()
        for load in loads:
            load.wait_for_all_partitions(PARTITIONS)
        cluster.restart(victim)
        cluster.wait_in_sync("exactly", "plain", "java")
    finish(cluster, loads)


@pytest.mark.short
def test_the_active_controller_is_killed(cluster, loads):
    victim = cluster.active_controller()
    cluster.nodes[victim].kill()
    assert cluster.active_controller() != victim
    for load in loads:
        load.wait_for_all_partitions(PARTITIONS)
    cluster.wait_fenced(victim)
    cluster.create_topic("while-away", assignment=[[node for node in (1, 2, 3) if node != victim]])
    cluster.nodes[victim].spawn()
    cluster.wait_ready(cluster.nodes.values())
    finish(cluster, loads)


def test_a_follower_is_killed_again_and_again(cluster, loads):
    """Its log ends at another place each time, and the others go on without it."""
    cluster.create_topic("led", assignment=[[1, 2, 3]])
    for _ in range(4):
        cluster.nodes[3].kill()
        loads[0].wait_for_all_partitions(PARTITIONS)
        cluster.restart(3)
    finish(cluster, loads)


def test_nodes_are_killed_one_after_the_other(cluster, loads):
    """Each as soon as the one before is back in sync: leadership goes round, and logs are cut by epoch."""
    for victim in (1, 2, 3, 1, 2):
        cluster.nodes[victim].kill()
        for load in loads:
            load.wait_for_all_partitions(PARTITIONS)
        cluster.restart(victim)
        cluster.wait_in_sync("exactly", "plain", "java")
    finish(cluster, loads)


def test_two_of_three_are_killed(cluster, loads):
    """Nothing is acknowledged by a minority, and all goes on when a second node is back."""
    cluster.create_topic("beside", assignment=[[3, 1, 2]])
    cluster.nodes[1].kill()
    cluster.nodes[2].kill()
    # What had been acknowledged has arrived when a producer has given up the first of these, and nothing more is acknowledged
    # until it has given up the second.
    given_up(cluster.nodes[3], "beside")
    before = [load.count() for load in loads]
    given_up(cluster.nodes[3], "beside")
    assert [load.count() for load in loads] == before, "a node alone acknowledges records, though two in-sync replicas are asked for"
    cluster.nodes[1].spawn()
    for load in loads:
        load.wait_for_all_partitions(PARTITIONS)
    cluster.nodes[2].spawn()
    cluster.wait_ready(cluster.nodes.values())
    finish(cluster, loads)


def given_up(node, topic: str) -> None:
    """A record for this leader is not acknowledged as long as its producer waits."""
    errors = []
    producer = Producer({"bootstrap.servers": node.bootstrap, "acks": "all", "message.timeout.ms": 2_000}, logger=quiet)
    producer.produce(topic, value_of(0), partition=0, on_delivery=lambda error, _: errors.append(error))
    # By identity: a KafkaError must not be compared with None.
    assert producer.flush(SOON_S) == 0 and errors[0] is not None


def test_all_are_killed_at_once(cluster, loads):
    for _ in range(2):
        for node in cluster.nodes.values():
            node.kill()
        for node in cluster.nodes.values():
            node.spawn()
        cluster.wait_ready(cluster.nodes.values())
        for load in loads:
            load.wait_for_all_partitions(PARTITIONS)
    finish(cluster, loads)


@pytest.mark.short
def test_a_stopped_leader_is_replaced_and_acknowledges_nothing_later(cluster, start_load):
    """SIGSTOP: its connections stay open and no port refuses. A client whose request hangs gives it up after its own request
    timeout (30 s by default); one that comes anew finds the next leader as soon as there is one."""
    cluster.create_topic("t", assignment=[[1, 2, 3]])
    hanging = start_load(cluster, "t", 1, idempotent=False, **{"request.timeout.ms": 2_000, "socket.timeout.ms": 3_000})
    hanging.wait_for_more(100)
    cluster.nodes[1].pause()
    begin = time.monotonic()
    cluster.wait_for_leader("t", lambda leader: leader != 1)
    assert seconds_since(begin) < SOON_S
    fresh = Producer({"bootstrap.servers": ",".join(cluster.nodes[node].bootstrap for node in (2, 3)), "acks": "all"})
    fresh.produce("t", value_of(1_000_000), partition=0)
    assert fresh.flush(SOON_S) == 0
    hanging.wait_for_more(100)
    cluster.nodes[1].resume()
    cluster.wait_for_isr("t", {1, 2, 3})
    told = hanging.stop()
    assert not told.errors
    hanging.check(cluster.bootstrap)
    cluster.check_replicas_equal("t")


def test_a_stopped_controller_is_replaced(cluster, loads):
    victim = cluster.active_controller()
    cluster.nodes[victim].pause()
    other = cluster.active_controller(other_than=victim)
    # Until then clients are sent to it, and wait.
    cluster.wait_fenced(victim)
    cluster.create_topic("while-away", assignment=[[node for node in (1, 2, 3) if node != victim]])
    cluster.nodes[victim].resume()
    cluster.wait_ready(cluster.nodes.values())
    assert cluster.active_controller() in cluster.nodes and other != victim
    finish(cluster, loads)


@pytest.mark.short
def test_a_rolling_restart_goes_unnoticed(cluster, loads):
    """No record lost, none doubled by an idempotent producer, no error that a client reports."""
    for node in (1, 2, 3):
        assert cluster.nodes[node].stop() == 0 or cluster.kind == "kafka"
        for load in loads:
            load.wait_for_all_partitions(PARTITIONS)
        cluster.restart(node)
        cluster.wait_in_sync("exactly", "plain", "java")
    finish(cluster, loads)
