"""What an upload to S3 costs: processor time and memory of a process that puts files as the broker puts segments and tables' files.

    cargo build --release --workspace --example s3_upload
    python benches/tier/upload.py [PROGRAM]...        # several are compared, in turns

Each run is a process of its own (benches/examples/s3_upload.rs), its figures are those that the kernel has of it when it has ended. The
server takes bodies and forgets them, and is not in the figures. The connection has no TLS, whose price is the same for all.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BEGUN = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
COMPLETED = "<CompleteMultipartUploadResult><ETag>any</ETag></CompleteMultipartUploadResult>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *args):
        pass

    def take(self) -> None:
        left, buffer = int(self.headers["Content-Length"] or 0), bytearray(1 << 20)
        while left:
            left -= self.rfile.readinto(memoryview(buffer)[: min(left, len(buffer))])

    def answer(self, body: str = "") -> None:
        self.send_response(200)
        self.send_header("ETag", '"any"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_PUT(self) -> None:
        self.take()
        self.answer()

    def do_POST(self) -> None:
        self.take()
        self.answer(BEGUN if "uploads" in urllib.parse.urlparse(self.path).query else COMPLETED)


def run(program: Path, url: str, file: Path, times: int, integrity: str) -> tuple[int, float, float]:
    """Requests, seconds of the processor, MiB of memory at the most."""
    process = subprocess.Popen([program, url, file, str(times), integrity], stdout=subprocess.PIPE, text=True)
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not re.fullmatch(r"\d+\s*", told):
        raise SystemExit(f"{program} failed: {told}")
    return int(told), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("programs", nargs="*", type=Path, default=[REPOSITORY / "target" / "release" / "examples" / "s3_upload"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    print("| program | objects | integrity | requests a GB | CPU s a GB | memory at most |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "object"
        for megabytes, times in ((10, 100), (256, 4), (1024, 1)):
            block = os.urandom(1 << 20)
            with open(file, "wb") as content:
                for _ in range(megabytes):
                    content.write(block)
            gigabytes = megabytes * times * (1 << 20) / 1e9
            for integrity in ("crc32c", "signature"):
                found: dict[Path, list] = {program: [] for program in options.programs}
                for _ in range(options.rounds):
                    for program in options.programs:
                        found[program].append(run(program, url, file, times, integrity))
                for program, runs in found.items():
                    requests, cpu_s, memory = (statistics.median(values) for values in zip(*runs))
                    print(f"| {program} | {megabytes} MiB | {integrity} | {requests / gigabytes:.1f} | {cpu_s / gigabytes:.2f} "
                          f"| {memory:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
