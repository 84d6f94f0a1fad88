"""An Iceberg REST catalog on this machine: Apache Iceberg's own (IcebergRest.java), behind a proxy with faults on demand.

    python iceberg_rest.py --jars DIRECTORY --token TOKEN [--tls CERTIFICATE KEY] [KEY=VALUE]...

Prints one line, `http://127.0.0.1:PORT` (`https:` with the files of a certificate and its key), and serves until its standard input ends. KEY=VALUE are properties of Iceberg's catalog behind
it. Requests without the token are refused (401), but for those to `/v1/oauth/tokens`, which gives it to the client `ottla` with
the secret `secret`. Faults are those of aws.py, at `/_faults`; what `fail` and `refuse` answer has the form of the API.
"""

import argparse
import http.client
import json
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

from aws import Application, Handler, refuse
from werkzeug.serving import make_server

TOKENS_PATH = "/v1/oauth/tokens"
CLIENT = {"client_id": "ottla", "client_secret": "secret", "grant_type": "client_credentials", "scope": "catalog"}
# Of one hop.
DROPPED_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


class Proxy(Application):
    """The catalog behind the rules."""

    def __init__(self, behind, token):
        self.behind = urllib.parse.urlsplit(behind).netloc
        self.token = token
        self.rules_lock = threading.Lock()
        self.rules = {"": []}

    def done(self, environ):
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read()
        if path == TOKENS_PATH:
            return self.token_answer(body)
        if environ.get("HTTP_AUTHORIZATION") != f"Bearer {self.token}":
            told = {"error": {"message": "Not authorized", "type": "NotAuthorizedException", "code": 401}}
            return "401 Unauthorized", [("Content-Type", "application/json")], json.dumps(told).encode()
        connection = http.client.HTTPConnection(self.behind)
        headers = {"Content-Type": environ.get("CONTENT_TYPE") or "application/json"}
        query = environ.get("QUERY_STRING", "")
        connection.request(environ["REQUEST_METHOD"], f"{path}?{query}" if query else path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in DROPPED_HEADERS]
        connection.close()
        return f"{answer.status} {answer.reason}", [*kept, ("Content-Length", str(len(content)))], content

    def token_answer(self, body):
        if dict(urllib.parse.parse_qsl(body.decode())) != CLIENT:
            told, status = {"error": "invalid_client", "error_description": "No such client"}, "401 Unauthorized"
        else:
            told, status = {"access_token": self.token, "token_type": "bearer", "expires_in": 3600}, "200 OK"
        content = json.dumps(told).encode()
        return status, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))], content

    def refused(self, start_response, method, operation, status, code, message, headers, body):
        body = body or json.dumps({"error": {"message": message, "type": code, "code": status}})
        return refuse(start_response, method, operation, status, code, message, headers, body)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jars", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("properties", nargs="*")
    arguments = parser.parse_args()
    source = Path(__file__).parent / "IcebergRest.java"
    command = ["java", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp", f"{arguments.jars}/*", source, *arguments.properties]
    # It ends with this process, whose standard input is its own.
    behind = subprocess.Popen(command, stdout=subprocess.PIPE)
    url = behind.stdout.readline().decode().strip()
    if not url.startswith("http://"):
        sys.exit("Iceberg's catalog did not start")
    tls = tuple(arguments.tls) if arguments.tls else None
    server = make_server("127.0.0.1", 0, Proxy(url, arguments.token), threaded=True, request_handler=Handler, ssl_context=tls)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", flush=True)
    behind.wait()


if __name__ == "__main__":
    main()
