"""Fixtures of the tests with broken disks: brokers and disks of a test's own, gone with it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stock"))

from harness.broker import Broker  # noqa: E402
from harness.loop_disk import LoopDisk  # noqa: E402


@pytest.fixture
def make_broker(tmp_path):
    """Makes a broker with a configuration; the test starts it. Data lies in `data` below the test's directory."""
    made: list[Broker] = []

    def make(config: dict[str, str] | None = None) -> Broker:
        made.append(Broker("ottla", tmp_path / f"broker-{len(made)}", config))
        return made[-1]

    yield make
    for broker in made:
        broker.end()


@pytest.fixture
def loop_disk(tmp_path):
    """Makes an ext4 file system of so many MiB; the test is skipped where that cannot be."""
    if reason := LoopDisk.missing():
        pytest.skip(f"no loop disk: {reason}")
    made: list[LoopDisk] = []

    def make(mebibytes: int) -> LoopDisk:
        made.append(LoopDisk(tmp_path / f"loop-{len(made)}", mebibytes))
        return made[-1]

    yield make
    for disk in made:
        disk.destroy()
