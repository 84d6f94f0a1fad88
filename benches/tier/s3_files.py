"""A directory as an S3 bucket, as quick as this machine sends files: for measuring reads of a tier, which the tests' server, all
Python and in memory, would hold back.

    python s3_files.py DIRECTORY        # prints http://127.0.0.1:PORT and serves until its standard input ends

Objects are the files of an `ottla.tier.url=file://DIRECTORY`. Gets with ranges, heads, lists, deletes and puts in one piece, also with
`If-None-Match: *`; any bucket is this one, and any signature does.
"""

import os
import re
import sys
import threading
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(sys.argv[1])
TIME = "2026-01-01T00:00:00.000Z"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # One write for all headers.
    wbufsize = 1 << 16

    def log_message(self, *args):
        pass

    def parsed(self) -> tuple[Path, dict[str, str]]:
        path, _, query = self.path.partition("?")
        key = urllib.parse.unquote(path).lstrip("/").partition("/")[2]
        return ROOT / key, dict(urllib.parse.parse_qsl(query, keep_blank_values=True))

    def answer(self, status: int, body: str = "", **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": len(body.encode()), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", Content_Type="application/xml")

    def do_GET(self) -> None:
        path, query = self.parsed()
        if "list-type" in query:
            return self.list(query)
        if "uploads" in query:
            return self.answer(200, "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
        try:
            file = open(path, "rb")
        except (FileNotFoundError, IsADirectoryError):
            return self.refuse(404, "NoSuchKey")
        with file:
            size = os.fstat(file.fileno()).st_size
            first, last, status = 0, size - 1, 200
            if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
                begin, end = wanted.groups()
                first, status = (int(begin) if begin else max(0, size - int(end))), 206
                last = min(last, int(end)) if begin and end else last
                if first >= size:
                    return self.refuse(416, "InvalidRange")
            headers = {"Content_Range": f"bytes {first}-{last}/{size}"} if status == 206 else {}
            self.send_response(status)
            for name, value in {"Content_Length": last - first + 1, "ETag": '"any"', **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.flush()
                self.connection.sendfile(file, first, last - first + 1)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        path, query = self.parsed()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if query:
            return self.refuse(501, "NotImplemented")
        path.parent.mkdir(parents=True, exist_ok=True)
        upload = ROOT / f".put-{uuid.uuid4()}"
        upload.write_bytes(content)
        if self.headers.get("If-None-Match"):
            try:
                os.link(upload, path)
            except FileExistsError:
                return self.refuse(412, "PreconditionFailed")
            finally:
                upload.unlink()
        else:
            upload.rename(path)
        self.answer(200, ETag='"any"')

    def do_POST(self) -> None:
        _, query = self.parsed()
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "delete" not in query:
            return self.refuse(501, "NotImplemented")
        for key in re.findall(r"<Key>([^<]*)</Key>", content):
            (ROOT / key).unlink(missing_ok=True)
        self.answer(200, "<DeleteResult></DeleteResult>")

    def list(self, query: dict[str, str]) -> None:
        prefix, after, most = query.get("prefix", ""), query.get("start-after", ""), int(query.get("max-keys", 1000))
        found = sorted((str(path.relative_to(ROOT)), path.stat().st_size) for path in ROOT.rglob("*")
                       if path.is_file() and not path.relative_to(ROOT).parts[0].startswith("."))
        found = [(key, size) for key, size in found if key.startswith(prefix) and key > after]
        objects = "".join(f"<Contents><Key>{escape(key)}</Key><LastModified>{TIME}</LastModified><Size>{size}</Size></Contents>"
                          for key, size in found[:most])
        self.answer(200, f"<ListBucketResult><IsTruncated>{'true' if len(found) > most else 'false'}</IsTruncated>"
                         f"<KeyCount>{len(found[:most])}</KeyCount>{objects}</ListBucketResult>", Content_Type="application/xml")


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
