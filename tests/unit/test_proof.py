"""Statements and their signatures, with a library of somebody else's as the judge."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OKPKey

from api.core import proof
from api.core.texts import storable

SIGNER = proof.Signer("a secret")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), JSON))
def test_a_statement_comes_back_and_its_form_is_its_own(statement: dict[str, object]) -> None:
    token = SIGNER.sign(statement)
    assert proof.read(token, [SIGNER.public_key]) == statement == proof.claimed(token)
    assert proof.digest(json.loads(proof.canonical(statement))) == proof.digest(statement)


def test_a_library_of_somebody_else_agrees() -> None:
    key = OKPKey.import_key({name: SIGNER.public_key[name] for name in ("kty", "crv", "x")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RFC 9864 renames the algorithm
        found = jws.deserialize_compact(SIGNER.sign({"a": 1}), key, algorithms=["EdDSA"])
    assert json.loads(found.payload) == {"a": 1}
    assert key.thumbprint() == SIGNER.key_id == found.headers()["kid"]


def test_a_secret_is_always_the_same_key() -> None:
    assert proof.Signer("a secret").key_id == SIGNER.key_id != proof.Signer("another").key_id


def test_what_was_altered_is_not_proven() -> None:
    header, payload, signature = SIGNER.sign({"outcome": "failed"}).split(".")
    better = proof.Signer("mallory").sign({"outcome": "clean"}).split(".")
    unsigned = proof._encode(b'{"alg":"none"}')
    odd = proof._encode(b'{"alg":"HS256"}')
    for token in (
        f"{header}.{better[1]}.{signature}",
        f"{header}.{payload}.{better[2]}",
        f"{header}.{better[1]}.{better[2]}",
        ".".join(better),
        f"{unsigned}.{payload}.",
        f"{odd}.{payload}.{signature}",
        f"{header}.{payload}.!",
        f"{header}.{payload}",
        "",
        "a.b.c",
        f"{proof._encode(b'[]')}.{proof._encode(b'[]')}.{signature}",
    ):
        with pytest.raises(proof.NotProven):
            proof.read(token, [SIGNER.public_key])
    with pytest.raises(proof.NotProven, match="none of those given"):
        proof.read(f"{header}.{payload}.{signature}", [])


def test_texts_of_any_name_can_be_stored() -> None:
    found = storable({"a\0": ["\udcff", "ü", 1, None, {"x": ("y\0",)}]})
    assert found == {"a\\x00": ["\\udcff", "ü", 1, None, {"x": ["y\\x00"]}]}
    json.dumps(found, ensure_ascii=False).encode()
