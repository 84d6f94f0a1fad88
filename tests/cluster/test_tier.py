"""Topics whose segments go to a tier that all nodes share, here a directory: nodes die at any moment between an upload and the
deletion of what was uploaded, and the store goes away. Every acknowledged record is read from offset 0."""

import json
from pathlib import Path

import pytest
from harness.process import wait_until

PARTITIONS = 2
# Everything soon, so that a kill finds each step under way.
HASTY = {
    "remote.log.storage.system.enable": "true",
    "remote.log.manager.task.interval.ms": "100",
    "remote.log.manager.task.retry.backoff.max.ms": "500",
    "log.retention.check.interval.ms": "300",
    "log.initial.task.delay.ms": "300",
}
TIERED = {
    "remote_storage_enable": True,
    "internal_segment_bytes": 100_000,
    "local_retention_bytes": 1,
    "file_delete_delay_ms": 0,
}


@pytest.fixture
def tier(tmp_path) -> Path:
    return tmp_path / "tier"


@pytest.fixture
def tiered(make_cluster, ottla_only, tier):
    return make_cluster({**HASTY, "ottla.tier.url": f"file://{tier}"}).start()


@pytest.fixture
def load(tiered, start_load):
    return start(tiered, start_load)


def start(cluster, start_load):
    cluster.create_topic("exactly", partitions=PARTITIONS, **TIERED)
    # What waited while a leader was away must fit into a segment.
    return start_load(cluster, "exactly", PARTITIONS, "librdkafka", idempotent=True, rate=800, **{"batch.size": 50_000})


def local_start(cluster, node: int, partition: int) -> int:
    """Of the first segment on the disk."""
    directory = cluster.nodes[node].partition_dir("exactly", partition)
    return min((int(path.stem) for path in directory.glob("*.log")), default=0)


def wait_for_local_deletion(cluster, beyond: dict[int, int], timeout_s: float = 60) -> dict[int, int]:
    """Until what lies below these offsets is on no running leader's disk; where the leaders' disks begin then."""
    for partition, offset in beyond.items():
        wait_until(lambda: local_start(cluster, cluster.leader("exactly", partition), partition) > offset, timeout_s,
                   f"local segments of {partition} up to {offset} go\n{cluster.logs()}")
    return {partition: local_start(cluster, cluster.leader("exactly", partition), partition) for partition in beyond}


def manifests(tier: Path) -> list[dict]:
    """The newest of each partition."""
    newest = {path.parent: path for path in sorted(tier.glob("tier/v1/*/*/manifest/*.json"))}
    return [json.loads(path.read_text()) for path in newest.values()]


def check_tier(tier: Path) -> int:
    """Segments follow each other from the log start on, and each is there; how many."""
    checked = 0
    for manifest in manifests(tier):
        end = manifest["log_start_offset"]
        for segment in manifest["segments"]:
            assert segment["base_offset"] <= end < segment["valid_to"], manifest
            end = segment["valid_to"]
            name = (f"{segment['base_offset']:020}-{segment['end_offset']:020}-{segment['leader_epoch']:010}-"
                    f"{segment['suffix']:08x}.seg")
            found = tier / "tier/v1" / manifest["topic_id"] / str(manifest["partition"]) / name
            assert found.stat().st_size == segment["bytes"], found
            checked += 1
    return checked


def finish(cluster, load, tier: Path) -> None:
    load.wait_for_all_partitions(PARTITIONS)
    load.finish()
    cluster.wait_in_sync("exactly")
    assert load.check(cluster.bootstrap) > 1_000
    assert check_tier(tier) > 10


@pytest.mark.short
def test_leaders_are_killed_while_their_segments_go_to_the_tier(tiered, load, tier):
    starts = wait_for_local_deletion(tiered, dict.fromkeys(range(PARTITIONS), 0))
    for _ in range(4):
        victim = tiered.leader("exactly")
        tiered.nodes[victim].kill()
        load.wait_for_all_partitions(PARTITIONS)
        tiered.restart(victim)
        starts = wait_for_local_deletion(tiered, starts)
    finish(tiered, load, tier)


def test_all_are_killed_at_once_while_segments_go_to_the_tier(tiered, load, tier):
    starts = wait_for_local_deletion(tiered, dict.fromkeys(range(PARTITIONS), 0))
    for _ in range(3):
        for node in tiered.nodes.values():
            node.kill()
        for node in tiered.nodes.values():
            node.spawn()
        tiered.wait_ready(tiered.nodes.values())
        starts = wait_for_local_deletion(tiered, starts)
    finish(tiered, load, tier)


@pytest.mark.short
def test_the_store_is_away_for_a_while(tiered, load, tier):
    """Nothing is refused, nothing leaves the disks, and all goes on when it is back; also on a leader that was killed meanwhile."""
    wait_for_local_deletion(tiered, dict.fromkeys(range(PARTITIONS), 0))
    away = tier.with_name("away")
    tier.rename(away)
    tier.write_text("no directory")
    ends = {(manifest["topic_id"], manifest["partition"]): manifest["segments"][-1]["valid_to"] for manifest in manifests(away)}
    load.wait_for_more(3_000)
    tiered.nodes[tiered.leader("exactly")].kill()
    load.wait_for_more(3_000)
    for (_, partition), end in ends.items():
        for node in tiered.brokers():
            assert local_start(tiered, node.id, partition) <= end, "what is not in the tier left the disk"
    tier.unlink()
    away.rename(tier)
    for node in tiered.nodes.values():
        if not node.running():
            node.spawn()
    tiered.wait_ready(tiered.nodes.values())
    wait_for_local_deletion(tiered, {partition: end for (_, partition), end in ends.items()})
    finish(tiered, load, tier)


def test_a_deleted_topic_leaves_nothing_in_the_tier(make_cluster, ottla_only, start_load, tier):
    cluster = make_cluster({**HASTY, "ottla.tier.url": f"file://{tier}", "ottla.tier.delete.grace.ms": "100"}).start()
    load = start(cluster, start_load)
    wait_for_local_deletion(cluster, dict.fromkeys(range(PARTITIONS), 0))
    load.finish()
    admin = cluster.admin()
    admin.delete_topics(["exactly"])["exactly"].result(30)
    wait_until(lambda: not any(path.is_file() for path in tier.glob("tier/**/*")), 60, f"objects go\n{cluster.logs()}")
