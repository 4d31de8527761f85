"""Key pairs that the platform makes for itself, and digests that tell pods of new secrets."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from typing import Any

import pulumi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

BITS = 3072
LIFETIME = dt.timedelta(days=3650)


def make_pair(name: str) -> tuple[str, str]:
    """An RSA key and a certificate that it signs for itself, both PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return private.decode(), certificate.public_bytes(pem).decode()


class PairProvider(ResourceProvider):
    """Makes a pair once; only another name makes another one."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        private, certificate = make_pair(props["name"])
        return CreateResult(str(uuid.uuid4()), {**props, "private_key": private, "certificate": certificate})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        changed = [key for key in ("name",) if olds.get(key) != news.get(key)]
        return DiffResult(changes=bool(changed), replaces=changed, delete_before_replace=False)


class KeyPair(Resource):
    """An RSA key pair to sign with; the certificate holds the public half."""

    private_key: pulumi.Output[str]
    certificate: pulumi.Output[str]

    def __init__(self, resource: str, *, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        secret = pulumi.ResourceOptions(additional_secret_outputs=["private_key"])
        super().__init__(
            PairProvider(),
            resource,
            {"name": name, "private_key": None, "certificate": None},
            pulumi.ResourceOptions.merge(opts, secret),
        )


def fingerprint(*secrets: pulumi.Input[str]) -> pulumi.Output[str]:
    """A short digest of secrets: a pod annotated with it starts anew when one of them changes."""

    def digest(values: list[Any]) -> str:
        return hashlib.sha256("\0".join(str(value) for value in values).encode()).hexdigest()[:16]

    return pulumi.Output.all(*secrets).apply(digest)
