"""Voters of the metadata quorum, changed as an operator changes them: by kafka-metadata-quorum."""

from cluster import Cluster
from harness.process import wait_until

# The generation whose tool can change voters.
TOOLS = "4.3.1"


def add_voter(cluster: Cluster, node: int) -> None:
    properties = cluster.nodes[node].directory / "admin.properties"
    properties.write_text((cluster.nodes[node].directory / "server.properties").read_text())
    cluster.tools(TOOLS).run("kafka-metadata-quorum", "--command-config", str(properties), "add-controller")


def directory_of(cluster: Cluster, node: int) -> str:
    described = cluster.tools(TOOLS).run("kafka-metadata-quorum", "describe", "--replication").stdout
    return next(line.split()[1] for line in described.splitlines() if line.split()[:1] == [str(node)])


def remove_voter(cluster: Cluster, node: int) -> None:
    tools, directory = cluster.tools(TOOLS), directory_of(cluster, node)

    def removed() -> bool:
        done = tools.run("kafka-metadata-quorum", "remove-controller", "--controller-id", str(node),
                         "--controller-directory-id", directory, check=False)
        # Kafka's brokers need a moment to find a new active controller.
        assert done.code == 0 or "NotLeaderOrFollower" in done.report, done.report
        return done.code == 0
    wait_until(removed, 60, f"voter {node} can be removed")


def voters(cluster: Cluster) -> set[int]:
    return set(cluster.nodes[cluster.active_controller()].quorum().voters)
