"""Fixtures of the tests with stock clients.

`--broker kafka` runs every test against Apache Kafka 3.9 instead of Ottla: a test that fails there is wrong.
`broker` is shared by all tests of a worker, so tests use names of their own (`name`); a test that stops, kills or
configures a broker takes `start_broker` and gets its own.
"""

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import environment  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.process import Process  # noqa: E402
from harness.tools import KafkaTools  # noqa: E402

_BROKERS = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--broker", choices=["ottla", "kafka"], default="ottla", help="what the tests run against")


@pytest.fixture(scope="session")
def broker_kind(request) -> str:
    return request.config.getoption("--broker")


@pytest.fixture(scope="session")
def _shared(broker_kind, tmp_path_factory, request):
    """The broker that tests share, kept in a list so that one that died is replaced and fails one test, not all."""
    brokers: list[Broker] = request.config.stash.setdefault(_BROKERS, [])
    running: list[Broker] = []

    def current() -> Broker:
        if running and not running[0].process.running():
            dead = running.pop()
            brokers.remove(dead)
            dead.end()
        if not running:
            running.append(Broker(broker_kind, tmp_path_factory.mktemp("broker")))
            brokers.append(running[0])
            running[0].start()
        return running[0]

    yield current
    for one in running:
        one.end()


@pytest.fixture
def broker(_shared):
    one = _shared()
    yield one
    assert one.process.running(), f"the broker ended during this test\n{one.log()}"


@pytest.fixture
def start_broker(broker_kind, tmp_path_factory, request):
    """Starts a broker of the test's own; call it with a dict of server.properties."""
    started: list[Broker] = []
    known = request.config.stash.setdefault(_BROKERS, [])

    def start(config: dict[str, str] | None = None) -> Broker:
        one = Broker(broker_kind, tmp_path_factory.mktemp("broker"), config)
        started.append(one)
        known.append(one)
        return one.start()

    yield start
    for one in started:
        one.end()
        known.remove(one)


@pytest.fixture
def name(request) -> str:
    """A name for topics and groups that no other test has."""
    plain = "".join(c if c.isalnum() else "-" for c in request.node.name)[:60].strip("-")
    return f"{plain}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=environment.KAFKA_VERSIONS)
def tools(request, broker) -> KafkaTools:
    """Kafka's tools against the shared broker, once for each generation."""
    return KafkaTools(request.param, broker.bootstrap)


@pytest.fixture
def ended():
    """Processes that are ended with the test, however it ends."""
    processes: list[Process] = []
    yield lambda process: processes.append(process) or process
    for process in processes:
        process.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for number, one in enumerate(item.config.stash.get(_BROKERS, [])):
            report.sections.append((f"log of broker {number} on port {one.port}", one.log()))
    return report
