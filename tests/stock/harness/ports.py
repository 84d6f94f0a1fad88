"""Free TCP ports below the ephemeral range.

Two test runs on one machine never get the same port: each one is held by a lock on a file until the process that took
it ends, so a port is not lost to another broker between its choice and its use, nor while its broker restarts.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_FIRST, _LAST = 15_000, 31_000
_held: list[int] = []


def free_port() -> int:
    locks = Path(tempfile.gettempdir()) / "ottla-test-ports"
    locks.mkdir(exist_ok=True)
    for _ in range(1_000):
        port = random.randint(_FIRST, _LAST)
        lock = os.open(locks / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _held.append(lock)
        return port
    raise RuntimeError("no free port found")
