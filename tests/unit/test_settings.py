"""Settings: safe by default in production, generated once in development."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api.settings import Settings

FIT = {
    "mode": "production",
    "token_secret": "t" * 40,
    "encryption_secret": "e" * 40,
    "proof_secret": "p" * 40,
    "database_url": "postgresql://db/ironyard",
}


def made(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def test_production_starts_with_secrets_of_its_own() -> None:
    assert made(**FIT).database == "postgresql+psycopg://db/ironyard"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"token_secret": ""}, "IRONYARD_TOKEN_SECRET"),
        ({"token_secret": "short"}, "IRONYARD_TOKEN_SECRET"),
        ({"encryption_secret": ""}, "IRONYARD_ENCRYPTION_SECRET"),
        ({"encryption_secret": "t" * 40}, "must differ"),
        ({"proof_secret": ""}, "IRONYARD_PROOF_SECRET"),
        ({"proof_secret": "e" * 40}, "must differ"),
        ({"discovery_token": "p" * 40}, "IRONYARD_DISCOVERY_TOKEN must differ"),
        ({"database_url": ""}, "IRONYARD_DATABASE_URL"),
        ({"discovery_token": "t" * 40}, "IRONYARD_DISCOVERY_TOKEN must differ"),
    ],
)
def test_production_refuses_defaults(change: dict[str, str], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        made(**FIT | change)


def test_a_discovery_token_is_long_or_absent() -> None:
    assert made(discovery_token="").discovery_token.get_secret_value() == ""
    assert made(discovery_token="d" * 32).discovery_token.get_secret_value() == "d" * 32
    with pytest.raises(ValidationError, match="IRONYARD_DISCOVERY_TOKEN must be empty or have at least 32"):
        made(discovery_token="d" * 31)


def test_development_makes_its_secrets_once(tmp_path: Path) -> None:
    first, second = made(data_dir=tmp_path), made(data_dir=tmp_path)
    assert first.signing_key == second.signing_key != first.encryption_key
    assert len(first.signing_key) >= 32
    kept = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IRONYARD_PORT", "9000")
    assert made(data_dir=tmp_path).port == 9000
    monkeypatch.setenv("IRONYARD_PORT", "none")
    with pytest.raises(ValidationError, match="port"):
        made()


def test_secrets_do_not_show() -> None:
    assert "t" * 40 not in repr(made(**FIT))
