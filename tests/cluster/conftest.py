"""Fixtures of the tests with clusters of real processes.

`--broker kafka` runs them on three nodes of Apache Kafka 3.9 instead of Ottla: a test that fails there is wrong, unless it is
about what only Ottla promises (`ottla_only`).
"""

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stock"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from cluster import Cluster  # noqa: E402
from harness.loop_disk import LoopDisk  # noqa: E402
from load import JavaLoad, LibrdkafkaLoad, Load  # noqa: E402

_CLUSTERS = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--broker", choices=["ottla", "kafka"], default="ottla", help="what the tests run against")


@pytest.fixture
def kind(request) -> str:
    return request.config.getoption("--broker")


@pytest.fixture
def ottla_only(kind):
    """For what Kafka does otherwise, or takes a minute for."""
    if kind != "ottla":
        pytest.skip("Apache Kafka does not promise this")


@pytest.fixture
def loop_disk(tmp_path):
    """Makes an ext4 file system of so many MiB; the test is skipped where that cannot be."""
    made: list[LoopDisk] = []

    def make(mebibytes: int) -> LoopDisk:
        if reason := LoopDisk.missing():
            pytest.skip(f"no loop disk: {reason}")
        made.append(LoopDisk(tmp_path / f"loop-{uuid.uuid4().hex[:8]}", mebibytes))
        return made[-1]

    yield make
    for disk in made:
        disk.destroy()


@pytest.fixture
def make_cluster(kind, tmp_path_factory, request, loop_disk):
    """Makes a cluster that the test fills and starts; call it with server.properties of all nodes. It ends before the disks do."""
    made: list[Cluster] = []
    request.config.stash[_CLUSTERS] = made

    def make(config: dict[str, str] | None = None) -> Cluster:
        made.append(Cluster(kind, tmp_path_factory.mktemp("cluster"), config))
        return made[-1]

    yield make
    try:
        for cluster in made:
            cluster.check_alive()
    finally:
        for cluster in made:
            cluster.end()
        request.config.stash[_CLUSTERS] = []


@pytest.fixture
def cluster(make_cluster) -> Cluster:
    """Three nodes, broker and controller each."""
    return make_cluster().start(3)


@pytest.fixture
def links(cluster):
    """The network of `cluster`, where links can be cut."""
    if not cluster.network.can_cut:
        pytest.skip("no links can be cut here: network namespaces need root, ip, nft and nsenter")
    return cluster.network


@pytest.fixture
def start_load(request):
    """Starts a producer against a cluster; one that the test did not stop is abandoned with it."""
    started: list[Load] = []

    def start(cluster: Cluster, topic: str, partitions: int, client: str = "librdkafka", **options) -> Load:
        started.append({"librdkafka": LibrdkafkaLoad, "java": JavaLoad}[client](cluster.bootstrap, topic, partitions, **options))
        return started[-1]

    yield start
    for load in started:
        load.abandon()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for cluster in item.config.stash.get(_CLUSTERS, []):
            report.sections.append(("logs of the cluster", cluster.logs()))
    return report
