"""Fixtures of the tests that read Ottla's tables with engines of others."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stock"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import engines  # noqa: E402
from writer import Writer  # noqa: E402


@pytest.fixture
def writer(tmp_path) -> Writer:
    return Writer(tmp_path / "bucket")


@pytest.fixture(params=[engines.PyIceberg, engines.DuckDb, engines.ChDb], ids=["pyiceberg", "duckdb", "chdb"])
def engine(request):
    one = request.param()
    yield one
    one.close()
