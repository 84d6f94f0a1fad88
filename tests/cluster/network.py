"""Addresses for the nodes of a cluster, and the links between them.

Where the machine allows it each node lives in a network namespace of its own with an address on a bridge, so that links can
be cut in one direction or both, by silence or by refusal, while clients, which use the host's end of the bridge, still reach
every node. Elsewhere the nodes share the loopback address, each with ports of its own, and nothing can be cut.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.ports import free_port

_PATH = os.environ.get("PATH", "") + ":/sbin:/usr/sbin"
CLIENTS = 254


def _run(*command: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess:
    program = shutil.which(command[0], path=_PATH) or command[0]
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, input=stdin)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done


class Namespaces:
    """One bridge 10.214.<slot>.0/24; node n has the address 10.214.<slot>.n, clients have .254."""

    can_cut = True

    def __init__(self):
        self._slot, self._lock = self._take_slot()
        self._bridge = f"ot{self._slot}"
        self._nodes: set[int] = set()
        # (sender, receiver) -> what happens to its packets where they arrive.
        self._verdicts: dict[tuple[int, int], str] = {}
        self._remove_leftovers()
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self.address(CLIENTS)}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")

    def add(self, node: int) -> None:
        if node in self._nodes:
            return
        self._nodes.add(node)
        space, outside = self._namespace(node), f"{self._bridge}v{node}"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", outside, "master", self._bridge, "up")
        _run("ip", "-n", space, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")

    def address(self, node: int) -> str:
        return f"10.214.{self._slot}.{node}"

    def port(self, node: int, name: str) -> int:
        return {"PLAINTEXT": 9092, "CONTROLLER": 9093, "METRICS": 9644}[name]

    def command(self, node: int, command: list[str]) -> list[str]:
        return [shutil.which("nsenter", path=_PATH), f"--net=/run/netns/{self._namespace(node)}", "--", *command]

    def cut(self, sender: int, receiver: int) -> None:
        """Packets of one direction get lost. CLIENTS is a node too."""
        self._set(sender, receiver, "drop")

    def refuse(self, sender: int, receiver: int) -> None:
        """What comes in this direction is answered by a reset, as a closed port answers."""
        self._set(sender, receiver, "meta l4proto tcp reject with tcp reset")

    def heal(self) -> None:
        receivers = {receiver for _, receiver in self._verdicts}
        self._verdicts.clear()
        for receiver in receivers:
            self._apply(receiver)

    def close(self) -> None:
        self._remove_leftovers()
        os.close(self._lock)

    def _set(self, sender: int, receiver: int, verdict: str) -> None:
        assert receiver != CLIENTS, "packets to clients would have to be cut on the host"
        self._verdicts[sender, receiver] = verdict
        self._apply(receiver)

    def _apply(self, receiver: int) -> None:
        rules = "".join(f"ip saddr {self.address(sender)} {verdict}\n"
                        for (sender, to), verdict in self._verdicts.items() if to == receiver)
        # The table is made before it is deleted, because deleting one that is not there is an error.
        _run(*self.command(receiver, ["nft", "-f", "-"]), stdin=(
            "table inet cut {}\ndelete table inet cut\n"
            f"table inet cut {{ chain arriving {{ type filter hook input priority 0; policy accept;\n{rules}}}\n}}\n"))

    def _namespace(self, node: int) -> str:
        return f"{self._bridge}-{node}"

    def _remove_leftovers(self) -> None:
        """Of this run, or of one that was killed. A namespace takes its links along in its own time, so they go first."""
        for link in Path("/sys/class/net").glob(f"{self._bridge}v*"):
            _run("ip", "link", "delete", link.name, check=False)
        for space in Path("/run/netns").glob(f"{self._bridge}-*"):
            _run("ip", "netns", "delete", space.name, check=False)
        _run("ip", "link", "delete", self._bridge, check=False)
        self._nodes.clear()

    @staticmethod
    def _take_slot() -> tuple[int, int]:
        locks = Path(tempfile.gettempdir()) / "ottla-test-networks"
        locks.mkdir(exist_ok=True)
        for slot in range(1, 250):
            lock = os.open(locks / str(slot), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            return slot, lock
        raise RuntimeError("no free test network found")

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here."""
        if os.geteuid() != 0:
            return "it needs root"
        for program in ("ip", "nft", "nsenter"):
            if shutil.which(program, path=_PATH) is None:
                return f"it needs the program {program}"
        probe = f"ot-probe-{os.getpid()}"
        if _run("ip", "netns", "add", probe, check=False).returncode != 0:
            return "the machine makes no network namespaces"
        works = _run("ip", "netns", "exec", probe, "nft", "list", "ruleset", check=False).returncode == 0
        _run("ip", "netns", "delete", probe)
        return None if works else "the machine has no packet filter in network namespaces"


class LocalPorts:
    """127.0.0.1 for all."""

    can_cut = False

    def __init__(self):
        self._ports: dict[tuple[int, str], int] = {}

    def add(self, node: int) -> None:
        pass

    def address(self, node: int) -> str:
        return "127.0.0.1"

    def port(self, node: int, name: str) -> int:
        if (node, name) not in self._ports:
            self._ports[node, name] = free_port()
        return self._ports[node, name]

    def command(self, node: int, command: list[str]) -> list[str]:
        return command

    def heal(self) -> None:
        pass

    def close(self) -> None:
        pass
