"""Nodes that must not start.

Exit codes: 2 for a configuration, 3 for a node that cannot start (broker/src/main.rs).
"""

CANNOT_START = 3


def refused(node, *words: str, timeout_s: float = 30) -> None:
    """The node ends by itself and says all of these words."""
    node.spawn()
    node.should_run = False
    code = node.process.wait(timeout_s)
    assert code == CANNOT_START, node.log()
    for word in words:
        assert word in node.said(), f"not said: {word}\n{node.log()}"
    assert "panicked" not in node.said(), node.log()
