"""An Iceberg REST catalog on this machine: tests/support/iceberg_rest.py as a process, whose head says what faults it can be given."""

import json
import subprocess
import urllib.request
from pathlib import Path

from . import environment

TOKEN = "the token of the tests"


class IcebergRest:
    """`properties`: of the catalog of Iceberg's behind it. `tls`: the files of a certificate for 127.0.0.1 and of its key."""

    def __init__(self, properties: dict[str, str], tls: tuple[Path, Path] | None = None):
        python = environment.ENVIRONMENT / "python" / "bin" / "python"
        jars = environment.ENVIRONMENT / "iceberg-rest"
        environment.program("java")
        if not python.exists() or not jars.exists():
            environment.missing("Iceberg's REST catalog (tests/setup.sh)")
        script = environment.REPOSITORY / "tests" / "support" / "iceberg_rest.py"
        command = [python, script, "--jars", jars, "--token", TOKEN, *(f"{key}={value}" for key, value in properties.items())]
        command += ["--tls", *tls] if tls else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url.startswith("http"), "the catalog did not start"

    def faults(self, *rules: dict) -> list[dict]:
        """Replaces the rules. Answers those that were there, with how often each came true."""
        with urllib.request.urlopen(f"{self.url}/_faults") as answer:
            before = json.load(answer)
        request = urllib.request.Request(f"{self.url}/_faults", json.dumps(rules).encode(), method="PUT")
        with urllib.request.urlopen(request) as answer:
            answer.read()
        return before

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
