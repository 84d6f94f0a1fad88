"""Fixtures of the tests that read Ottla's tables with engines of others."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stock"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import engines  # noqa: E402
from harness import environment  # noqa: E402
from harness.aws import Aws  # noqa: E402
from harness.broker import Broker  # noqa: E402
from harness.process import run  # noqa: E402
from writer import Writer  # noqa: E402


@pytest.fixture
def writer(tmp_path) -> Writer:
    return Writer(tmp_path / "bucket")


@pytest.fixture(params=[engines.PyIceberg, engines.DuckDb, engines.ChDb], ids=["pyiceberg", "duckdb", "chdb"])
def engine(request):
    one = request.param()
    yield one
    one.close()


@pytest.fixture
def duckdb():
    engine = engines.DuckDb()
    yield engine
    engine.close()


@pytest.fixture
def aws():
    os.environ |= {"AWS_ACCESS_KEY_ID": engines.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": engines.SECRET_KEY}
    server = Aws("lake")
    yield server
    server.end()


@pytest.fixture
def start(tmp_path):
    """Starts a broker whose tables lie in a directory, unless it is told otherwise."""
    started: list[Broker] = []

    def start(config: dict[str, str] | None = None) -> Broker:
        broker = Broker("ottla", tmp_path / "broker", {"ottla.tier.url": f"file://{tmp_path}/bucket", **(config or {})})
        started.append(broker)
        return broker.start()

    yield start
    for broker in started:
        broker.end()


@pytest.fixture
def broker(start) -> Broker:
    return start()


@pytest.fixture
def ottla(broker):
    """Runs a command of the binary against that broker."""
    def call(*arguments: str, stdin: str | None = None, code: int = 0, cwd=None):
        command = [str(environment.ottla_binary()), *arguments, "-b", broker.bootstrap]
        completed = run(command, stdin=stdin, check=False, cwd=cwd)
        assert completed.code == code, completed.report
        return completed

    return call
