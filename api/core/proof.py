"""Proof: what the ledger states is signed, so that others can check it with no access to us.

A statement is a JWS in compact form (RFC 7515) under an Ed25519 key (RFC 8037, `EdDSA`); its payload is the
statement in canonical JSON. Keys are named by their thumbprint (RFC 7638). Nothing here needs a database.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# RFC 9864 calls it Ed25519; the libraries in use know this name.
ALGORITHM = "EdDSA"
SIGNER = "signer"  # where a transaction carries it
_SALT = b"ironyard/proof"


class NotProven(ValueError):
    """The statement was altered, or signed by none of the keys."""


class Signer:
    """Signs under the key that follows from the proof secret: 32 bytes by scrypt are its Ed25519 seed."""

    def __init__(self, secret: str) -> None:
        seed = hashlib.scrypt(secret.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        key = {"kty": "OKP", "crv": "Ed25519", "x": _encode(self._key.public_key().public_bytes_raw())}
        self.key_id = thumbprint(key)
        self.public_key = key | {"kid": self.key_id, "use": "sig", "alg": ALGORITHM}

    def sign(self, statement: Mapping[str, Any]) -> str:
        header = {"alg": ALGORITHM, "kid": self.key_id}
        signed = f"{_encode(canonical(header))}.{_encode(canonical(statement))}"
        return f"{signed}.{_encode(self._key.sign(signed.encode()))}"


def thumbprint(key: Mapping[str, Any]) -> str:
    """A public key's name, from nothing but the key. Raises KeyError for another kind of key."""
    parts = {name: key[name] for name in ("crv", "kty", "x")}
    return _encode(hashlib.sha256(canonical(parts)).digest())


def read(token: str, keys: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statement that one of `keys` (public JWKs) has signed. Raises NotProven."""
    header, statement = _parts(token)
    if header.get("alg") != ALGORITHM:
        raise NotProven(f"it is signed with {header.get('alg')}, not with {ALGORITHM}")
    known = {thumbprint(key): key for key in keys if key.get("crv") == "Ed25519"}
    key = known.get(str(header.get("kid")))
    if key is None:
        raise NotProven(f"it is signed by the key {header.get('kid')}, which is none of those given")
    signed, _, signature = token.rpartition(".")
    try:
        Ed25519PublicKey.from_public_bytes(_decode(key["x"])).verify(_decode(signature), signed.encode())
    except (InvalidSignature, ValueError) as error:
        raise NotProven("the signature does not fit: it was altered after it was signed") from error
    return statement


def claimed(token: str) -> dict[str, Any]:
    """What a statement says, unchecked. Raises NotProven when it is none."""
    return _parts(token)[1]


def canonical(document: Any) -> bytes:
    """JSON in the one form that digests are taken of: keys sorted, no spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(document: Any) -> str:
    """SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical(document)).hexdigest()


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        header, statement, _ = token.split(".")
        found = json.loads(_decode(header)), json.loads(_decode(statement))
    except (ValueError, AttributeError) as error:
        raise NotProven("it is no JSON Web Signature in compact form") from error
    if not all(isinstance(part, dict) for part in found):
        raise NotProven("it is no JSON Web Signature of a JSON object")
    return found


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
