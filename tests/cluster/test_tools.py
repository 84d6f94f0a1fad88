"""Kafka's tools for those who run a cluster: what ails a topic, moving partitions, electing leaders, asking controllers."""

import json
import re
import time

import pytest
from cluster import batches, seconds_since
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from harness.process import wait_until
from harness.tools import KafkaTools
from load import produce, quiet, read_all
from membership import TOOLS


def listed(tools: KafkaTools, option: str) -> set[tuple[str, int]]:
    """The partitions that kafka-topics shows with a filter."""
    output = tools.run("kafka-topics", "--describe", option).stdout
    return {(topic, int(partition)) for topic, partition in re.findall(r"Topic: (\S+)\s+Partition: (\d+)", output)}


@pytest.mark.parametrize("version", ["3.9.0", TOOLS])
def test_topics_are_found_by_what_ails_them(cluster, version):
    cluster.create_topic("whole", assignment=[[1, 2]])
    cluster.create_topic("short", assignment=[[1, 2, 3], [2, 1, 3]], min_insync_replicas=2)
    cluster.create_topic("strict", assignment=[[1, 2, 3]], min_insync_replicas=3)
    cluster.create_topic("lonely", assignment=[[3]], min_insync_replicas=1)
    tools = cluster.tools(version)
    for option in ("--under-replicated-partitions", "--unavailable-partitions", "--under-min-isr-partitions"):
        assert listed(tools, option) == set(), option
    cluster.nodes[3].kill()
    cluster.wait_fenced(3)
    cluster.wait_for_isr("short", {1, 2})
    cluster.wait_for_isr("strict", {1, 2})
    # Where eligible leader replicas are known (KIP-966), the last replica in sync is one of them when it is gone.
    knows_elr = cluster.kind == "ottla"
    under_replicated = {("short", 0), ("short", 1), ("strict", 0)} | ({("lonely", 0)} if knows_elr else set())
    assert listed(tools, "--under-replicated-partitions") == under_replicated
    assert listed(tools, "--unavailable-partitions") == {("lonely", 0)}
    assert listed(tools, "--under-min-isr-partitions") == {("strict", 0), ("lonely", 0)}
    at_min = {("whole", 0), ("short", 0), ("short", 1)} | (set() if knows_elr else {("lonely", 0)})
    assert listed(tools, "--at-min-isr-partitions") == at_min
    lonely = tools.run("kafka-topics", "--describe", "--topic", "lonely").stdout
    assert re.search(rf"Leader: none\s+Replicas: 3\s+Isr: {'' if knows_elr else '3'}\s", lonely), lonely
    if knows_elr and version == TOOLS:
        strict = tools.run("kafka-topics", "--describe", "--topic", "strict").stdout
        assert re.search(r"Elr: 3\b", strict), "it still has everything that was acknowledged: " + strict
        assert re.search(r"Elr: 3\b", lonely), lonely
    cluster.restart(3)
    cluster.wait_in_sync("whole", "short", "strict", "lonely")
    assert listed(tools, "--under-replicated-partitions") == set()


def plan(path, *partitions: tuple[str, int, list[int]]) -> str:
    path.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": topic, "partition": number, "replicas": replicas} for topic, number, replicas in partitions]}))
    return str(path)


@pytest.mark.parametrize("version", ["3.9.0", TOOLS])
def test_partitions_are_moved_with_a_throttle_and_back(cluster, version, tmp_path):
    cluster.create_topic("t", assignment=[[1, 2], [2, 1]])
    produce(cluster.bootstrap, "t", 1_000)
    tools = cluster.tools(version)

    topics = tmp_path / "topics.json"
    topics.write_text(json.dumps({"version": 1, "topics": [{"topic": "t"}]}))
    generated = tools.run("kafka-reassign-partitions", "--generate", "--broker-list", "2,3",
                          "--topics-to-move-json-file", str(topics)).stdout
    current, proposed = [json.loads(line) for line in generated.splitlines() if line.startswith("{")]
    assert {tuple(one["replicas"]) for one in current["partitions"]} == {(1, 2), (2, 1)}
    assert all(set(one["replicas"]) == {2, 3} for one in proposed["partitions"])

    forth = plan(tmp_path / "forth.json", ("t", 0, [3, 2]), ("t", 1, [2, 3, 1]))
    started = tools.run("kafka-reassign-partitions", "--execute", "--throttle", "50000000",
                        "--reassignment-json-file", forth).stdout
    assert "Successfully started partition reassignments" in started, started

    def verified() -> str | None:
        output = tools.run("kafka-reassign-partitions", "--verify", "--reassignment-json-file", forth).stdout
        return output if output.count("is completed") == 2 else None
    verified = wait_until(verified, 60, "both partitions are moved", poll_s=1)
    assert "Clearing broker-level throttles" in verified and "Clearing topic-level throttles" in verified, verified
    assert "No partition reassignments found" in tools.run("kafka-reassign-partitions", "--list").stdout
    described = tools.run("kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", "t").stdout
    assert "throttled" not in described, described
    found = cluster.nodes[1].metadata("t").topics["t"]
    assert found[0].replicas == [3, 2] and found[1].replicas == [2, 3, 1]
    cluster.wait_in_sync("t")
    produce(cluster.bootstrap, "t", 1_000, first=1_000)
    assert cluster.check_replicas_equal("t") > 0


@pytest.mark.short
@pytest.mark.parametrize("side", ["leader", "follower"])
def test_a_throttled_move_goes_at_its_rate_beside_one_that_is_not(cluster, side, ottla_only, tmp_path):
    """Two topics are copied to the same node, one of them throttled, on one side at a time as in Kafka's configs. Kafka lets
    more than the rate through at first."""
    size, rate = 5_000_000, 50_000
    values = [b"x" * 10_000] * (size // 10_000)
    for topic in ("slow", "fast"):
        cluster.create_topic(topic, assignment=[[1, 2]], min_insync_replicas=1)
        produce(cluster.bootstrap, topic, len(values), values=values, **{"batch.size": 100_000})
    tools = cluster.tools(TOOLS)

    def alter(kind: str, name: str, key: str, value: str) -> None:
        tools.run("kafka-configs", "--alter", "--entity-type", kind, "--entity-name", name, "--add-config", f"{key}={value}")
    throttled = {"leader": 1, "follower": 3}[side]
    alter("topics", "slow", f"{side}.replication.throttled.replicas", f"0:{throttled}")
    began = time.monotonic()
    alter("brokers", str(throttled), f"{side}.replication.throttled.rate", str(rate))
    wanted = plan(tmp_path / "plan.json", ("slow", 0, [1, 2, 3]), ("fast", 0, [1, 2, 3]))
    tools.run("kafka-reassign-partitions", "--execute", "--reassignment-json-file", wanted)
    cluster.wait_in_sync("fast")

    def copied() -> int:
        return sum(len(batch) for batch in batches(cluster.nodes[3].data_dir / "slow-0").values())
    wait_until(lambda: copied() >= 200_000, 60, "some of the throttled topic is copied")
    copied = copied()
    # What the rate gives in the time and in its first window, and a batch.
    allowed = rate * (seconds_since(began) + 1) + 110_000
    assert copied <= allowed < size, f"{copied} bytes of {size} came in {seconds_since(began):.1f} s"
    assert 3 not in cluster.partition("slow").isr
    produce(cluster.bootstrap, "slow", 100)

    alter("brokers", str(throttled), f"{side}.replication.throttled.rate", "1000000000")
    cluster.wait_in_sync("slow")
    cluster.check_replicas_equal("slow")


@pytest.mark.short
def test_a_move_that_takes_too_long_is_cancelled(cluster, tmp_path):
    cluster.create_topic("t", assignment=[[1, 2]], min_insync_replicas=1)
    for first in range(0, 20_000, 1_000):
        produce(cluster.bootstrap, "t", 1_000, first=first)
    tools = cluster.tools(TOOLS)
    wanted = plan(tmp_path / "plan.json", ("t", 0, [1, 3]))
    # Many batches at a rate that takes minutes.
    tools.run("kafka-reassign-partitions", "--execute", "--throttle", "1000", "--reassignment-json-file", wanted)
    moving = tools.run("kafka-reassign-partitions", "--list").stdout
    assert re.search(r"t-0: replicas: 1,3,2\.\s+adding: 3\.\s+removing: 2\.", moving), moving
    verify = tools.run("kafka-reassign-partitions", "--verify", "--reassignment-json-file", wanted, "--preserve-throttles").stdout
    assert "still in progress" in verify, verify
    cancelled = tools.run("kafka-reassign-partitions", "--cancel", "--reassignment-json-file", wanted).stdout
    assert "Successfully cancelled partition reassignment for: t-0" in cancelled, cancelled
    assert "No partition reassignments found" in tools.run("kafka-reassign-partitions", "--list").stdout
    wait_until(lambda: cluster.partition("t").replicas == [1, 2], 30, "the replicas are what they were")
    unknown = plan(tmp_path / "unknown.json", ("t", 0, [1, 9]))
    refused = tools.run("kafka-reassign-partitions", "--execute", "--reassignment-json-file", unknown, check=False)
    assert refused.code != 0, refused.report


def test_an_unclean_leader_is_elected_when_asked(cluster):
    """The only replica in sync is gone for good; the other one is made leader by hand, without what it lacks."""
    cluster.create_topic("t", assignment=[[3, 1]], min_insync_replicas=1)
    cluster.nodes[1].kill()
    cluster.wait_for_isr("t", {3})
    produce(cluster.bootstrap, "t", 10)
    cluster.nodes[3].kill()
    cluster.restart(1)
    cluster.wait_fenced(3)
    wait_until(lambda: (found := cluster.partition("t")) and found.leader == -1, 30, "nobody may lead")
    tools = cluster.tools(TOOLS)
    where = ["--topic", "t", "--partition", "0"]
    refused = tools.run("kafka-leader-election", "--election-type", "preferred", *where, check=False)
    assert cluster.partition("t").leader == -1, refused.stdout + refused.stderr
    tools.run("kafka-leader-election", "--election-type", "unclean", *where)
    cluster.wait_for_leader("t", lambda leader: leader == 1)
    produce(cluster.bootstrap, "t", 10)
    cluster.restart(3)
    cluster.wait_in_sync("t")
    cluster.check_replicas_equal("t")


def test_preferred_leaders_of_all_topics(cluster):
    for number, topic in enumerate(["a", "b", "c"]):
        cluster.create_topic(topic, assignment=[[number + 1, (number + 1) % 3 + 1]])
    cluster.nodes[2].stop()
    cluster.wait_for_leader("b", lambda leader: leader == 3)
    cluster.restart(2)
    cluster.wait_in_sync("a", "b", "c")
    cluster.tools(TOOLS).run("kafka-leader-election", "--election-type", "preferred", "--all-topic-partitions")
    for number, topic in enumerate(["a", "b", "c"]):
        cluster.wait_for_leader(topic, lambda leader: leader == number + 1)


def test_controllers_are_asked_directly(cluster):
    """Tools with --bootstrap-controller (KIP-919)."""
    cluster.create_topic("t", assignment=[[1, 2, 3]])
    tools = KafkaTools(TOOLS)
    controllers = ",".join(node.controller_address for node in cluster.nodes.values())
    where = ["--bootstrap-controller", controllers]
    active = cluster.active_controller()
    status = tools.run("kafka-metadata-quorum", *where, "describe", "--status").stdout
    assert re.search(rf"LeaderId:\s+{active}\b", status), status
    replication = tools.run("kafka-metadata-quorum", *where, "describe", "--replication").stdout
    rows = {int(line.split()[0]): line.split() for line in replication.splitlines() if line[:1].isdigit()}
    assert sorted(rows) == [1, 2, 3], replication
    # Id, directory, log end offset, lag, last fetch, last caught up, status.
    if cluster.kind == "ottla":
        # Kafka's static quorums do not know them.
        assert len({row[1] for row in rows.values()}) == 3, "each has a directory of its own: " + replication
    assert all(int(row[2]) > 0 and int(row[4]) > 0 and int(row[5]) > 0 for row in rows.values()), replication

    from_brokers = KafkaTools(TOOLS).run("kafka-cluster", "cluster-id", "--bootstrap-server", cluster.bootstrap).stdout
    assert tools.run("kafka-cluster", "cluster-id", *where).stdout == from_brokers
    endpoints = tools.run("kafka-cluster", "list-endpoints", *where).stdout
    for node in cluster.nodes.values():
        assert re.search(rf"^{node.id}\s+{node.address}\s+{node.controller_port}\b", endpoints, re.MULTILINE), endpoints

    key = "log.cleaner.threads"
    of_two = ["--entity-type", "brokers", "--entity-name", "2"]
    tools.run("kafka-configs", *where, *of_two, "--alter", "--add-config", f"{key}=3")
    described = KafkaTools(TOOLS).run("kafka-configs", "--bootstrap-server", cluster.bootstrap, *of_two, "--describe").stdout
    assert f"{key}=3" in described, described
    assert "metadata.version" in tools.run("kafka-features", *where, "describe").stdout


@pytest.mark.short
def test_deleted_records_do_not_come_back_with_another_leader(cluster, tmp_path):
    cluster.create_topic("t", assignment=[[1, 2, 3]], min_insync_replicas=1)
    produce(cluster.bootstrap, "t", 1_000)
    offsets = tmp_path / "offsets.json"

    def delete(upto: int) -> None:
        offsets.write_text(json.dumps({"version": 1, "partitions": [{"topic": "t", "partition": 0, "offset": upto}]}))
        done = cluster.tools(TOOLS).run("kafka-delete-records", "--offset-json-file", str(offsets)).stdout
        assert re.search(rf"partition: t-0\s+low_watermark: {upto}\b", done), done
    delete(400)
    cluster.nodes[1].kill()
    cluster.wait_for_leader("t", lambda leader: leader == 2)
    assert read_all(cluster.bootstrap, "t")[0][0][0] == 400
    # One answers nothing: it is waited for as long as it counts as alive. Not by the tool, which may turn to that one for 30 s.
    cluster.restart(1)
    cluster.wait_in_sync("t")
    cluster.nodes[3].pause()
    leader = AdminClient({"bootstrap.servers": cluster.nodes[cluster.leader("t")].bootstrap}, logger=quiet)
    [deleted] = leader.delete_records([TopicPartition("t", 0, 500)]).values()
    assert deleted.result(60).low_watermark == 500
    assert 3 not in cluster.brokers()[0].metadata().brokers
    cluster.nodes[3].resume()
    cluster.wait_in_sync("t")
    delete(600)
