"""A bucket and Glue over TLS, whose certificate an authority signed that only some of the machine's users trust."""

import datetime
import ipaddress
import json
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import engines
from harness import environment
from harness.aws import Aws
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
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls_aws(authority, monkeypatch):
    # Of the broker, and of boto3.
    for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority.certificate))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", engines.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", engines.SECRET_KEY)
    server = Aws("lake", tls=(authority.server, authority.key))
    yield server
    server.end()


def test_a_table_over_tls(start, tls_aws, monkeypatch):
    assert tls_aws.url.startswith("https://")
    broker = start(in_glue(tls_aws))
    create(broker, "rows")
    send(broker, "rows", [json.dumps({"id": number}).encode() for number in range(COUNT)])
    glue, s3 = (boto3.client(service, endpoint_url=tls_aws.url, region_name=engines.REGION) for service in ("glue", "s3"))

    def rows() -> int:
        try:
            entry = glue.get_table(DatabaseName="kafka", Name="rows")["Table"]
        except glue.exceptions.EntityNotFoundException:
            return 0
        key = entry["Parameters"]["metadata_location"].removeprefix("s3://lake/")
        metadata = json.load(s3.get_object(Bucket="lake", Key=key)["Body"])
        current = [one for one in metadata.get("snapshots", []) if one["snapshot-id"] == metadata.get("current-snapshot-id")]
        return sum(int(snapshot["summary"]["total-records"]) for snapshot in current)

    wait_until(lambda: rows() == COUNT, 60, f"{COUNT} rows", poll_s=0.2)
    wait_until(lambda: metric(broker, "lag_records", "rows") == 0, 30, "no lag")

    # Whoever does not know the authority gets no answer from the bucket, and is told why.
    command = [str(environment.ottla_binary()), "tier", "check", str(broker.directory / "server.properties")]
    assert run(command).code == 0
    monkeypatch.delenv("SSL_CERT_FILE")
    refused = run(command, check=False)
    assert refused.code != 0 and "UnknownIssuer" in refused.report, refused.report
