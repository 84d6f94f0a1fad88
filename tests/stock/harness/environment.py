"""What tests/setup.sh installed and where; a missing piece fails the test that needs it.

`OTTLA_TEST_ALLOW_MISSING=1` turns the failure into a skip that names the piece, for machines without a registry.
"""

import os
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
ENVIRONMENT = Path(os.environ.get("OTTLA_TEST_ENV") or REPOSITORY / ".test-env").resolve()

KAFKA_VERSIONS = ["3.3.1", "3.9.0", "4.3.1"]
# Clients that come without tools.
KAFKA_CLIENTS_VERSIONS = ["4.4.0"]
# The generation that runs as the broker with `--broker kafka`.
KAFKA_BROKER_VERSION = "3.9.0"


def missing(piece: str) -> None:
    """Fails the running test, or skips it where missing pieces are allowed."""
    message = f"{piece} is not there; run tests/setup.sh"
    if os.environ.get("OTTLA_TEST_ALLOW_MISSING") == "1":
        pytest.skip(message)
    pytest.fail(message, pytrace=False)


def program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        missing(f"the program {name}")
    return found


def java_jars(version: str) -> Path:
    jars = ENVIRONMENT / "java" / version
    program("java")
    if not (jars / f"kafka-tools-{version}.jar").exists():
        missing(f"Kafka {version}")
    return jars


def client_jars(version: str) -> Path:
    """For programs that are run from their source, which takes a JDK."""
    jars = ENVIRONMENT / "java" / version
    program("javac")
    if not (jars / f"kafka-clients-{version}.jar").exists():
        missing(f"kafka-clients {version}")
    return jars


def node_modules() -> Path:
    modules = ENVIRONMENT / "node" / "node_modules"
    program("node")
    if not (modules / "kafkajs").exists():
        missing("KafkaJS")
    return modules


def tutorial_python() -> Path:
    """The interpreter whose kafka-python is the one that tutorials install."""
    python = ENVIRONMENT / "python-tutorial" / "bin" / "python"
    if not python.exists():
        missing("the kafka-python of the tutorials")
    return python


def ottla_binary() -> Path:
    """The binary under test: $OTTLA_BINARY, or the newest of the two that cargo builds here."""
    chosen = os.environ.get("OTTLA_BINARY")
    if chosen:
        return Path(chosen).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    built = [target / profile / "ottla" for profile in ("debug", "release")]
    built = [path for path in built if path.exists()]
    if not built:
        pytest.exit("no ottla binary: run `cargo build -p ottla` first, or set OTTLA_BINARY", returncode=2)
    return max(built, key=lambda path: path.stat().st_mtime)


def stock_csv() -> Path | None:
    """The rows of the stock-market job, where they are there."""
    chosen = os.environ.get("OTTLA_STOCK_CSV")
    if chosen:
        return Path(chosen)
    beside = REPOSITORY.parent / "shared" / "data" / "indexProcessed.csv"
    return beside if beside.exists() else None
