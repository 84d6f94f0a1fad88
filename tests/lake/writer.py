"""Tables on disk, written by the crate of the tables itself, without a broker."""

import json
import os
import subprocess
from pathlib import Path

from harness import environment

PARTITIONS = 3


def _program() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR") or environment.REPOSITORY / "target")
    program = target / "debug" / "examples" / "lake_writer"
    if not program.exists():
        environment.missing(f"{program} (cargo build -p ottla-lake --examples)")
    return program


class Writer:
    NOW_MS = 1_795_000_000_000

    def __init__(self, bucket: Path):
        bucket.mkdir()
        self.bucket = bucket

    def table(self, name: str) -> Path:
        return self.bucket / "lake" / "test" / name

    def write(self, name: str, values: list, lines_per_commit: int, maintain: bool = False) -> str:
        """Adds the values (JSON of what is no text) to the table, in commits of so many; answers what the program says."""
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        command = [_program(), self.bucket, name, str(self.NOW_MS), str(PARTITIONS), str(lines_per_commit)]
        command += ["maintain"] if maintain else []
        ran = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def data_files(self, name: str) -> list[Path]:
        return sorted((self.table(name) / "data").rglob("*.parquet"))
