"""The power fails on all nodes at once, under load: what was not synced is gone on each of them. Every acknowledged record had
been synced on every in-sync replica, so none may be missing.

Apache Kafka acknowledges from the page cache and loses its tail here, and so must Ottla with `ottla.durability=memory`: were it
not caught, the test could not see a loss.
"""

import random

import pytest
from cluster import Cluster
from harness.process import wait_until
from load import LostPromise

pytestmark = pytest.mark.usefixtures("ottla_only")
PARTITIONS = 3


@pytest.fixture
def make_cut_off(make_cluster, loop_disk):
    """A cluster whose nodes each have a disk that can lose its power."""
    def make(config: dict[str, str]) -> tuple[Cluster, list]:
        cluster = make_cluster(config)
        disks = []
        for node in (1, 2, 3):
            disks.append(loop_disk(512))
            one = cluster.add(node)
            one.data_dir = disks[-1].mount_point / "data"
            one.config["log.dirs"] = str(one.data_dir)
        return cluster.start(), disks
    return make


def cut_and_start(cluster, disks) -> None:
    for disk in disks:
        disk.cut_power()
    for node in cluster.nodes.values():
        node.kill()
    for disk in disks:
        disk.unmount()
        disk.mount()
    for node in cluster.nodes.values():
        node.spawn()
    cluster.wait_ready(cluster.nodes.values())


def cuts(cluster, disks, load, times: int) -> None:
    for _ in range(times):
        load.wait_for_all_partitions(PARTITIONS)
        # Somewhere in the middle of what happens.
        load.wait_for_more(random.randint(1, 150))
        cut_and_start(cluster, disks)
    load.wait_for_all_partitions(PARTITIONS)
    load.stop()
    cluster.wait_in_sync("t")
    assert load.check(cluster.bootstrap) > 100


@pytest.mark.parametrize("idempotent", [True, False])
def test_nothing_acknowledged_is_lost(make_cut_off, start_load, idempotent):
    cluster, disks = make_cut_off({})
    cluster.create_topic("t", partitions=PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, idempotent=idempotent, rate=500)
    cuts(cluster, disks, load, times=3)
    assert not load.told.errors, load.told.errors[:3]
    cluster.check_replicas_equal("t")


def test_a_loss_is_seen(make_cut_off, start_load):
    cluster, disks = make_cut_off({"ottla.durability": "memory"})
    cluster.create_topic("t", partitions=PARTITIONS)
    load = start_load(cluster, "t", PARTITIONS, idempotent=False, rate=500)
    # The kernel writes what is older than half a minute by itself; what is younger is lost.
    wait_until(lambda: load.count() > 1_000, 60, "there is something to lose")
    with pytest.raises(LostPromise):
        cuts(cluster, disks, load, times=2)
