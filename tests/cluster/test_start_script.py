"""`make cluster`: config/cluster/start.sh with the configuration that is shipped."""

import os
import signal

import pytest
from harness import environment
from harness.process import Process, run, wait_until
from network import Namespaces

pytestmark = pytest.mark.usefixtures("ottla_only")
BOOTSTRAP = "127.0.0.1:19092,127.0.0.1:29092,127.0.0.1:39092"


@pytest.fixture
def own_loopback(tmp_path):
    """The script's ports are fixed: it runs where nobody else has them."""
    if reason := Namespaces.missing():
        pytest.skip(f"no loopback of its own: {reason}")
    network = Namespaces()
    network.add(1)
    yield lambda *command: network.command(1, [str(part) for part in command])
    # The nodes are in sessions of their own and would outlive a script that was killed.
    for pid in run(["pgrep", "-f", f"log.dirs={tmp_path}/"], check=False).lines:
        os.kill(int(pid), signal.SIGKILL)
    network.close()


@pytest.mark.short
def test_three_nodes_in_one_command(own_loopback, tmp_path):
    ottla = environment.ottla_binary()
    command = own_loopback(environment.REPOSITORY / "config" / "cluster" / "start.sh", ottla)

    def cli(*arguments: str, **options):
        return run(own_loopback(ottla, *arguments, "-b", BOOTSTRAP), **options)

    for start in (1, 2):
        script = Process(command, env={"OTTLA_CLUSTER_DATA": str(tmp_path)})
        try:
            for node in (1, 2, 3):
                script.wait_for_line(lambda line: line.startswith(f"node {node} |") and "9092" in line, 60)
            if start == 1:
                wait_until(lambda: cli("topics", "create", "t", "--replication-factor", "3", check=False).code == 0, 30,
                           "a topic can be created")
                cli("produce", "t", stdin="kept\n")
            consumed = cli("consume", "t", "--from", "beginning", "--max", "1")
            assert "kept" in consumed.stdout
            # As a terminal does it: Ctrl-C reaches all that is in the group of the foreground.
            os.killpg(script.pid, signal.SIGINT)
            assert script.wait(60) == 0, script.output()
        finally:
            script.kill()
    for node in (1, 2, 3):
        assert (tmp_path / f"node-{node}" / "meta.properties").exists()


@pytest.mark.short
def test_a_node_that_dies_leaves_the_others(own_loopback, tmp_path):
    """And the script says how it is started again."""
    script = Process(own_loopback(environment.REPOSITORY / "config" / "cluster" / "start.sh", environment.ottla_binary()),
                     env={"OTTLA_CLUSTER_DATA": str(tmp_path)})
    try:
        for node in (1, 2, 3):
            script.wait_for_line(lambda line: line.startswith(f"node {node} |") and "9092" in line, 60)
        found = run(["pgrep", "-f", f"log.dirs={tmp_path}/node-2"]).lines
        os.kill(int(found[0]), signal.SIGKILL)
        script.wait_for_line(lambda line: line.startswith("node 2 ended"), 10)
        script.wait_for_line(lambda line: f"--override log.dirs={tmp_path}/node-2" in line, 10)
        os.killpg(script.pid, signal.SIGINT)
        assert script.wait(60) == 128 + signal.SIGKILL
    finally:
        script.kill()
