"""An ext4 file system in a file, mounted through a loop device: its power can be cut, and it can be full."""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

from .process import wait_until

_PATH = os.environ.get("PATH", "") + ":/sbin:/usr/sbin"
_EXT4_IOC_SHUTDOWN = 0x8004587D
_GOING_FLAGS_NOLOGFLUSH = 2


class LoopDisk:
    def __init__(self, directory: Path, mebibytes: int):
        self.image = directory / "disk"
        self.mount_point = directory / "mount"
        self.mount_point.mkdir(parents=True)
        with open(self.image, "wb") as image:
            image.truncate(mebibytes << 20)
        # Without blocks kept back for root, full is the same for everybody.
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def cut_power(self) -> None:
        """Everything that was not synced is gone."""
        root = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(root, _EXT4_IOC_SHUTDOWN, struct.pack("I", _GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(root)

    def fill(self) -> Path:
        """Takes all that is free with one file; removing it makes the space free again."""
        filler = self.mount_point / "filler"
        with open(filler, "wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(b"x" * size) == size:
                        pass
                except OSError:
                    pass
            os.fsync(file.fileno())
        return filler

    def unmount(self) -> None:
        # A process that was just killed may hold the mount for a moment longer.
        wait_until(self._try_unmount, 20, "the loop disk is unmounted")

    def destroy(self) -> None:
        """Whatever state it is in."""
        if os.path.ismount(self.mount_point):
            self.unmount()
        self.image.unlink(missing_ok=True)

    def _try_unmount(self) -> bool:
        return subprocess.run(["umount", str(self.mount_point)], capture_output=True).returncode == 0

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here."""
        if os.geteuid() != 0:
            return "it needs root"
        if shutil.which("mkfs.ext4", path=_PATH) is None:
            return "it needs mkfs.ext4"
        if subprocess.run(["losetup", "-f"], capture_output=True).returncode != 0:
            return "it needs a free loop device"
        return None


def _run(*command: str) -> None:
    program = shutil.which(command[0], path=_PATH) or command[0]
    subprocess.run([program, *command[1:]], check=True)
