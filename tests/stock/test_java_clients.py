"""Java clients newer than the newest of Kafka's tools that can be had: a program of their own."""

import pytest

from harness import environment
from harness.process import run


@pytest.mark.parametrize("version", environment.KAFKA_CLIENTS_VERSIONS)
def test_round_trip(broker, name, version):
    """kafka-clients 4.4 introduces itself with ApiVersions version 5, which names the node and the cluster it is meant for."""
    program = environment.REPOSITORY / "tests" / "stock" / "java" / "RoundTrip.java"
    jars = environment.client_jars(version)
    finished = run([environment.program("java"), "-Xmx256m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-cp", f"{jars}/*", str(program), broker.bootstrap, name], timeout_s=120)
    assert finished.lines == ["all well"], finished.report
