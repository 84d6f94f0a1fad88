"""Child processes: output collected by line as it arrives, conditions instead of sleeps, nothing left behind."""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _as_in_a_terminal() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Who runs the tests in the background has Ctrl-C ignored, and a shell cannot undo what it inherits.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(condition: Callable[[], object], timeout_s: float, what: str, poll_s: float = 0.05):
    """The first truthy value of `condition`; a TimeoutError that says what was waited for otherwise."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(poll_s)


class Process:
    """A running child. Each stream is read by its own thread, so that a child never blocks on a full pipe."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None):
        self.command = command
        self.lines: list[str] = []
        self.error_lines: list[str] = []
        self._arrived = threading.Condition()
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_as_in_a_terminal,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self._child.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self._child.stderr, self.error_lines), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, into: list[str]) -> None:
        for line in stream:
            with self._arrived:
                into.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._arrived.notify_all()

    @property
    def pid(self) -> int:
        return self._child.pid

    def running(self) -> bool:
        return self._child.poll() is None

    def write(self, text: str) -> None:
        self._child.stdin.write(text.encode())
        self._child.stdin.flush()

    def close_input(self) -> None:
        self._child.stdin.close()

    def wait_for_line(self, accept: Callable[[str], bool], timeout_s: float, start: int = 0, errors: bool = False) -> str:
        """The first line from index `start` on that `accept` takes, waiting for lines still to come."""
        lines = self.error_lines if errors else self.lines
        deadline = time.monotonic() + timeout_s
        at = start
        with self._arrived:
            while True:
                while at < len(lines):
                    if accept(lines[at]):
                        return lines[at]
                    at += 1
                left = deadline - time.monotonic()
                ended = not self.running() and not any(reader.is_alive() for reader in self._readers)
                if left <= 0 or ended:
                    why = f"the process ended with {self._child.poll()}" if ended else f"not within {timeout_s} s"
                    raise TimeoutError(f"line not seen, {why}\n{self.output()}")
                self._arrived.wait(min(left, 0.2))

    def wait(self, timeout_s: float) -> int:
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"still running after {timeout_s} s\n{self.output()}") from None
        for reader in self._readers:
            reader.join(5)
        return code

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        if self.running():
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for reader in self._readers:
            reader.join(5)

    def end(self, timeout_s: float = 10) -> int:
        """SIGTERM, then SIGKILL for one that doesn't listen."""
        if self.running():
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
        self.kill()
        return self._child.returncode

    def output(self) -> str:
        return "\n".join(
            ["$ " + " ".join(self.command), "-- stdout", *self.lines[-200:], "-- stderr", *self.error_lines[-100:]]
        )


class Finished:
    """What a command printed and how it ended."""

    def __init__(self, process: Process, code: int):
        self.code = code
        self.lines = process.lines
        self.stdout = "\n".join(process.lines)
        self.stderr = "\n".join(process.error_lines)
        self.report = f"{process.output()}\n-- exit code {code}"


def run(command: list[str], timeout_s: float = 60, stdin: str | None = None, check: bool = True, env=None, cwd=None) -> Finished:
    """Runs a command to its end. With `check` an exit code other than 0 is an AssertionError with all it printed."""
    process = Process(command, env=env, cwd=cwd)
    try:
        if stdin is not None:
            process.write(stdin)
        process.close_input()
        finished = Finished(process, process.wait(timeout_s))
    finally:
        process.kill()
    assert not check or finished.code == 0, finished.report
    return finished
