"""Buckets and catalogs over TLS, with a certificate of an authority that only some of the machine's users trust."""

import datetime
import ipaddress
import json
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import engines
from harness import environment
from harness.aws import Aws
from harness.iceberg_rest import TOKEN, IcebergRest
from harness.process import run, wait_until
from topics import create, in_glue, metric, send

COUNT = 500
DAY = datetime.timedelta(days=1)


def certificate(name: str, issuer: str, key, signed_by, *extensions):
    now = datetime.datetime.now(datetime.timezone.utc)
    named = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
    builder = x509.CertificateBuilder(issuer_name=named[1], subject_name=named[0], public_key=key.public_key(),
                                      serial_number=x509.random_serial_number(), not_valid_before=now - DAY, not_valid_after=now + DAY)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(signed_by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Authority:
    def __init__(self, directory: Path):
        self.certificate, self.server, self.key = (directory / name for name in ("authority.pem", "server.pem", "server.key"))
        own, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.certificate.write_bytes(certificate("authority", "authority", own, own, x509.BasicConstraints(True, None)))
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        self.server.write_bytes(certificate("server", "authority", key, own, address))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.key.write_bytes(key.private_bytes(*form))


@pytest.fixture
def authority(tmp_path, monkeypatch) -> Authority:
    authority = Authority(tmp_path)
    # Whom brokers, this process and boto3 trust.
    for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority.certificate))
    return authority


@pytest.fixture
def tls_aws(authority, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", engines.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", engines.SECRET_KEY)
    server = Aws("lake", tls=(authority.server, authority.key))
    yield server
    server.end()


@pytest.fixture
def tls_rest(authority, tmp_path):
    properties = {"catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog", "uri": f"jdbc:sqlite:{tmp_path}/catalog.db",
                  "jdbc.schema-version": "V1", "clients": "1", "warehouse": f"file://{tmp_path}/bucket/lake"}
    server = IcebergRest(properties, tls=(authority.server, authority.key))
    yield server
    server.end()


def send_rows(broker) -> None:
    create(broker, "rows")
    send(broker, "rows", [json.dumps({"id": number}).encode() for number in range(COUNT)])


def rows_of(metadata: dict) -> int:
    current = [one for one in metadata.get("snapshots", []) if one["snapshot-id"] == metadata.get("current-snapshot-id")]
    return sum(int(snapshot["summary"]["total-records"]) for snapshot in current)


def wait_for_rows(broker, rows) -> None:
    wait_until(lambda: rows() == COUNT, 60, f"{COUNT} rows", poll_s=0.2)
    wait_until(lambda: metric(broker, "lag_records", "rows") == 0, 30, "no lag")


def check_trust(monkeypatch, *arguments: str) -> None:
    """Whoever does not know the authority gets no answer, and is told why."""
    command = [str(environment.ottla_binary()), *arguments]
    run(command)
    monkeypatch.delenv("SSL_CERT_FILE")
    refused = run(command, check=False)
    assert refused.code != 0 and "UnknownIssuer" in refused.report, refused.report


def test_a_bucket_and_glue(start, tls_aws, monkeypatch):
    assert tls_aws.url.startswith("https://")
    broker = start(in_glue(tls_aws))
    send_rows(broker)
    glue, s3 = (boto3.client(service, endpoint_url=tls_aws.url, region_name=engines.REGION) for service in ("glue", "s3"))

    def rows() -> int:
        try:
            entry = glue.get_table(DatabaseName="kafka", Name="rows")["Table"]
        except glue.exceptions.EntityNotFoundException:
            return 0
        key = entry["Parameters"]["metadata_location"].removeprefix("s3://lake/")
        return rows_of(json.load(s3.get_object(Bucket="lake", Key=key)["Body"]))

    wait_for_rows(broker, rows)
    check_trust(monkeypatch, "tier", "check", str(broker.directory / "server.properties"))


def test_a_rest_catalog(start, tls_rest, monkeypatch):
    assert tls_rest.url.startswith("https://")
    broker = start({"ottla.lake.catalog": "rest", "ottla.lake.rest.uri": tls_rest.url, "ottla.lake.database": "kafka",
                    "ottla.lake.rest.token": TOKEN})
    send_rows(broker)
    table = urllib.request.Request(f"{tls_rest.url}/v1/namespaces/kafka/tables/rows", headers={"Authorization": f"Bearer {TOKEN}"})

    def rows() -> int:
        try:
            with urllib.request.urlopen(table) as answer:
                return rows_of(json.load(answer)["metadata"])
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return 0

    wait_for_rows(broker, rows)
    check_trust(monkeypatch, "lake", "-b", broker.bootstrap, "--override", f"ottla.lake.rest.token={TOKEN}", "status")
