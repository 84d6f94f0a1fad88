"""S3 and Glue on this machine: moto's server made strict, with faults on demand. For tests that need a bucket or a catalog.

    python aws.py [--port N] [--bucket NAME]... [--tls CERTIFICATE KEY]

Prints one line, `http://127.0.0.1:PORT` (`https:` with the files of a certificate and its key), serves until its standard input ends,
and keeps everything in memory. Any credentials do.

What stock moto leaves out and Amazon does not:
- Writes of S3 are atomic: of several `If-None-Match: *` one wins.
- A body that ends early is not stored, nor one that is not what its checksums say (`x-amz-content-sha256`, CRC-32, CRC-32C).
- Glue's UpdateTable refuses an old VersionId (ConcurrentModificationException), and keeps no old version with SkipArchive.

Faults: `PUT /_faults` with a JSON list of rules replaces all rules, `GET /_faults` answers them with how often each was met and came
true. `/_faults/NAME` has rules of its own for requests to the bucket or Glue's database NAME, so that tests can share a server. A rule is met by requests whose method is `method`, whose path with query `path` (a regular expression) is found in, and whose
X-Amz-Target ends with `operation`; each may be left out. Of those it comes true for every `every`-th (1), at most `times` times. The first
rule that comes true does its `kind`:

    refuse  nothing is done; the answer has `status` (503), `code` (SlowDown), `message`, `headers`; or `body` as it is
    drop    nothing is done, the connection ends: what clients see while a service is away
    stop    after `bytes` of the request's body nothing is done, and the connection ends: with the answer of a refusal where there is a
            `status`, and `seconds` (0) later
    lose    it is done, the connection ends without an answer
    fail    it is done, the answer is 500 InternalError
    cut     it is done, the connection ends in the middle of the answer
    slow    `seconds` later it is done
    late    it is done, `seconds` later comes the answer
"""

import argparse
import base64
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
import zlib

import crc32c
from moto.core.exceptions import JsonRESTError
from moto.glue.responses import GlueResponse
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

FAULTS_PATH = "/_faults"
KINDS = {"refuse", "drop", "stop", "lose", "fail", "cut", "slow", "late"}
FIELDS = {"kind", "method", "path", "operation", "every", "times", "status", "code", "message", "headers", "body", "seconds", "bytes"}


def make_glue_strict():
    """UpdateTable with the semantics that commits rest on."""
    lock = threading.Lock()

    def update_table(self):
        wanted = self.parameters.get("TableInput")
        with lock:
            table = self.glue_backend.get_table(self.parameters.get("DatabaseName"), wanted.get("Name"))
            current = str(table._current_version)
            expected = self.parameters.get("VersionId")
            if expected is not None and expected != current:
                raise JsonRESTError(
                    "ConcurrentModificationException", "Update table failed due to concurrent modifications."
                )
            table.update(wanted)
            if self.parameters.get("SkipArchive"):
                table.delete_version(current)
        return moto_update_result()

    def moto_update_result():
        from moto.core.responses import EmptyResult

        return EmptyResult()

    GlueResponse.update_table = update_table


class Rule:
    def __init__(self, wanted):
        unknown = set(wanted) - FIELDS
        if unknown or wanted.get("kind") not in KINDS:
            raise ValueError(f"no rule: {wanted}")
        self.wanted = wanted
        self.path = re.compile(wanted.get("path", ""))
        self.met = 0
        self.came_true = 0

    def comes_true(self, method, path, operation):
        wanted = self.wanted
        if wanted.get("method", method) != method or not self.path.search(path):
            return False
        if not operation.endswith(wanted.get("operation", "")):
            return False
        self.met += 1
        if self.met % wanted.get("every", 1) or self.came_true >= wanted.get("times", sys.maxsize):
            return False
        self.came_true += 1
        return True

    def told(self):
        return {**self.wanted, "met": self.met, "came_true": self.came_true}


class Application:
    """moto behind the rules."""

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.writes = threading.Lock()
        self.rules_lock = threading.Lock()
        # By bucket or database; those without a name are for all requests.
        self.rules = {"": []}

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with_query = f"{path}?{environ.get('QUERY_STRING', '')}"
        operation = environ.get("HTTP_X_AMZ_TARGET", "")
        # Bodies are read before any lock is taken: a client that sends slowly holds nobody up.
        if operation or path.startswith(FAULTS_PATH):
            body = self.body(environ)
            if path.startswith(FAULTS_PATH):
                return self.faults(method, path.removeprefix(FAULTS_PATH).strip("/"), body, start_response)
            wanted = self.fault(json.loads(body).get("DatabaseName"), method, with_query, operation)
        else:
            wanted = self.fault(path.split("/")[1], method, with_query, operation)
            if wanted["kind"] == "stop":
                return stop(environ, wanted)
            body = self.body(environ)
        if body is None:
            return hang_up(environ)
        if code := wrong_checksum(environ, body):
            return refuse(start_response, method, operation, 400, code, "What came is not what its checksum says.")
        environ["wsgi.input"] = io.BytesIO(body)
        kind, seconds = wanted["kind"], wanted.get("seconds", 1)
        if kind == "drop":
            return hang_up(environ)
        if kind == "refuse":
            status = wanted.get("status", 503)
            code = wanted.get("code", "SlowDown")
            message = wanted.get("message", "Please reduce your request rate.")
            headers, body = wanted.get("headers", {}), wanted.get("body")
            return self.refused(start_response, method, operation, status, code, message, headers, body)
        if kind == "slow":
            time.sleep(seconds)
        status, headers, answer = self.done(environ)
        if kind == "lose":
            return hang_up(environ)
        if kind == "fail":
            message = "We encountered an internal error. Please try again."
            return self.refused(start_response, method, operation, 500, "InternalError", message, None, None)
        if kind == "cut":
            head = "".join(f"{name}: {value}\r\n" for name, value in headers)
            connection = environ["werkzeug.socket"]
            with contextlib.suppress(OSError):
                connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + answer[: len(answer) // 2])
            return hang_up(environ)
        if kind == "late":
            time.sleep(seconds)
        start_response(status, headers)
        return [answer]

    def body(self, environ):
        """None: it ended early."""
        length = int(environ.get("CONTENT_LENGTH") or 0)
        try:
            body = environ["wsgi.input"].read(length)
        except OSError:
            return None
        if len(body) < length:
            return None
        if environ.get("HTTP_TRANSFER_ENCODING", "") == "chunked":
            body += environ["wsgi.input"].read()
        return body

    def fault(self, name, method, with_query, operation):
        with self.rules_lock:
            rules = self.rules.get(name, []) + self.rules[""]
            rule = next((rule for rule in rules if rule.comes_true(method, with_query, operation)), None)
        return rule.wanted if rule else {"kind": None}

    def done(self, environ):
        """What moto does and answers, whole."""
        begun = []
        is_write = environ["REQUEST_METHOD"] not in ("GET", "HEAD")
        with self.writes if is_write else threading.Lock():
            parts = self.moto(environ, lambda status, headers, error=None: begun.append((status, headers)))
            answer = b"".join(parts)
            getattr(parts, "close", lambda: None)()
        status, headers = begun[-1]
        return status, headers, answer

    def refused(self, *what):
        return refuse(*what)

    def faults(self, method, name, body, start_response):
        with self.rules_lock:
            if method == "PUT":
                try:
                    self.rules[name] = [Rule(wanted) for wanted in json.loads(body)]
                except (ValueError, TypeError, AttributeError, re.error) as error:
                    start_response("400 Bad Request", [("Content-Type", "text/plain")])
                    return [str(error).encode()]
            told = json.dumps([rule.told() for rule in self.rules.get(name, [])]).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(told)))])
        return [told]


def wrong_checksum(environ, body):
    """The error code of the first checksum that is another's."""
    sha256 = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
    if len(sha256) == 64 and sha256 != hashlib.sha256(body).hexdigest():
        return "XAmzContentSHA256Mismatch"
    if environ["REQUEST_METHOD"] != "PUT":
        # What completes an upload may say the checksum of the object.
        return None
    for name, of in {"CRC32": zlib.crc32, "CRC32C": crc32c.crc32c}.items():
        told = environ.get(f"HTTP_X_AMZ_CHECKSUM_{name}")
        if told and told != base64.b64encode(of(body).to_bytes(4, "big")).decode():
            return "BadDigest"
    return None


def stop(environ, wanted):
    with contextlib.suppress(OSError):
        environ["wsgi.input"].read(wanted["bytes"])
        time.sleep(wanted.get("seconds", 0))
        if "status" in wanted:
            code = wanted.get("code", "SlowDown")
            answer = f"<Error><Code>{code}</Code><Message>Please reduce your request rate.</Message></Error>"
            head = f"HTTP/1.1 {wanted['status']} {code}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            environ["werkzeug.socket"].sendall(f"{head}Content-Length: {len(answer)}\r\n\r\n{answer}".encode())
    return hang_up(environ)


request_ids = itertools.count(1)


def refuse(start_response, method, operation, status, code, message, headers=None, body=None):
    if body is not None:
        answer, kind = body.encode(), "application/xml"
    elif operation:
        answer = json.dumps({"__type": code, "message": message}).encode()
        kind = "application/x-amz-json-1.1"
    else:
        answer = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>'
            f"<RequestId>{next(request_ids)}</RequestId></Error>"
        ).encode()
        kind = "application/xml"
    if method == "HEAD":
        answer = b""
    start_response(
        f"{status} {code}", [("Content-Type", kind), ("Content-Length", str(len(answer))), *(headers or {}).items()]
    )
    return [answer]


def hang_up(environ):
    with contextlib.suppress(OSError):
        # The client may have been the first.
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    # werkzeug takes it as the client's going, and says nothing.
    raise ConnectionResetError


class Handler(MotoRequestHandler):
    # Connections are kept, as Amazon's are.
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, *args):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append", default=[])
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    arguments = parser.parse_args()
    make_glue_strict()
    for bucket in arguments.bucket:
        s3_backends["123456789012"]["aws"].create_bucket(bucket, "us-east-1")
    tls = tuple(arguments.tls) if arguments.tls else None
    server = make_server("127.0.0.1", arguments.port, Application(), threaded=True, request_handler=Handler, ssl_context=tls)
    server.daemon_threads = True
    os.environ["MOTO_PORT"] = str(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
