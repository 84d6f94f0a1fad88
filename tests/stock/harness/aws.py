"""S3 and Glue on this machine: tests/support/aws.py as a process, whose head says what faults it can be given."""

import json
import subprocess
import urllib.request
from pathlib import Path

from . import environment


class Aws:
    def __init__(self, *buckets: str, tls: tuple[Path, Path] | None = None):
        """`tls`: the files of a certificate for 127.0.0.1 and of its key."""
        python = environment.ENVIRONMENT / "python" / "bin" / "python"
        if not python.exists():
            environment.missing("S3 on this machine (moto)")
        script = environment.REPOSITORY / "tests" / "support" / "aws.py"
        arguments = [argument for bucket in buckets for argument in ("--bucket", bucket)]
        arguments += ["--tls", *tls] if tls else []
        self.process = subprocess.Popen([python, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url.startswith("http"), "the server did not start"

    def faults(self, *rules: dict, name: str = "") -> None:
        """Replaces the rules of that bucket or database, or those for all."""
        request = urllib.request.Request(f"{self.url}/_faults/{name}", json.dumps(rules).encode(), method="PUT")
        with urllib.request.urlopen(request) as answer:
            answer.read()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
