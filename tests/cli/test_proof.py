"""Records and manifests from the command line, and their check without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli.exits import Exit
from api.core.db import Database
from tests.cli.conftest import Cli
from tests.support import ledger

STEP = {"name": "wipe", "status": "ok", "removed": {"home": 1}, "paths": {"home": ["/home/e\x1bve"]}}


@pytest.fixture
def record(cli: Cli, fleet: Any, database: Database, tmp_path: Path) -> Path:
    """The record of a reclaim that found something, beside the keys."""
    host = fleet("gpu-01")
    cli("host", "reclaim", "gpu-01", "--yes")
    ledger.finish(database, host, ledger.report("reclaim", steps=[STEP], findings=["nothing much"]))
    file = tmp_path / "record.json"
    assert cli("host", "reclaim-record", "gpu-01", "2", "--out", str(file)) == ""
    cli("proof", "keys", "--out", str(tmp_path / "keys.json"))
    return file


def offline(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONYARD_URL", "http://127.0.0.1:9")


def test_a_record_is_read_and_checked(
    cli: Cli, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row["number"] for row in cli.json("host", "reclaims", "gpu-01")] == [2, 1]
    assert "clean" in cli("host", "reclaims", "gpu-01")
    shown = cli("host", "reclaim-record", "gpu-01", "2")
    assert "wipe: home: /home/e�ve" in shown
    assert "finding: nothing much" in shown
    assert "health         PASS" in shown
    assert "Proven: reclaim 2 of gpu-01 ended clean" in cli("proof", "verify", str(record))
    assert cli.json("proof", "keys")["keys"][0]["kid"] in cli("proof", "keys")
    offline(cli, monkeypatch)
    cli.refused("proof", "verify", str(record), code=Exit.UNREACHABLE)
    keys = ("--keys", str(tmp_path / "keys.json"))
    assert "Proven" in cli("proof", "verify", str(record), *keys)
    assert cli.json("proof", "verify", str(record), *keys)["removed"] == {"home": 1}


@pytest.mark.parametrize("change", ["outcome", "signature", "keys", "none", "text"])
def test_an_altered_record_is_not_proven(cli: Cli, record: Path, tmp_path: Path, change: str) -> None:
    document, keys = json.loads(record.read_text()), tmp_path / "keys.json"
    code = Exit.FAILED
    if change == "outcome":
        document["record"]["outcome"] = "failed"
    elif change == "signature":
        document["signature"] = document["signature"][:-4] + "AAAA"
    elif change == "keys":
        keys.write_text(json.dumps({"keys": []}))
    elif change == "none":
        del document["signature"]
        code = Exit.INVALID
    record.write_text(json.dumps(document) if change != "text" else "no JSON")
    code = Exit.INVALID if change == "text" else code
    said = cli.refused("proof", "verify", str(record), "--keys", str(keys), code=code)
    assert "is not proven" in said or code is Exit.INVALID


def test_a_manifest_is_read_and_checked(cli: Cli, fleet: Any, tmp_path: Path) -> None:
    fleet("gpu-01")
    file, index = tmp_path / "manifest.json", tmp_path / "index.xz"
    assert "number" in cli("host", "manifest", "gpu-01")
    cli("host", "manifest", "gpu-01", "--out", str(file))
    assert "Proven: manifest 1 of gpu-01" in cli("proof", "verify", str(file))
    index.write_bytes(b"another")
    said = cli.refused("proof", "verify", str(file), "--index", str(index), code=Exit.FAILED)
    assert "the index" in said
    document = json.loads(file.read_text())
    document["manifest"]["of"] = "another"
    file.write_text(json.dumps(document))
    assert "the manifest" in cli.refused("proof", "verify", str(file), code=Exit.FAILED)
    cli.refused("host", "manifest", "gpu-01", "--number", "7", code=Exit.NOT_FOUND)
