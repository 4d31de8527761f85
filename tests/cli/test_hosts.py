"""Enrolling hosts and what operators do to them."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from api.cli import output
from api.cli.exits import Exit, Failure
from api.cli.options import confirm
from api.core.db import Database
from tests.cli.conftest import Cli, meanwhile
from tests.support import ledger

pytestmark = pytest.mark.timeout(120)

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nnot one\n-----END OPENSSH PRIVATE KEY-----\n"
REFERENCE = ("--region", "lab", "--key-reference", "/etc/ironyard/keys/fleet")


def test_enroll_and_wait_until_it_is_proven_clean(cli: Cli, database: Database) -> None:
    def enroll() -> None:
        host = only_host(database)
        ledger.finish(
            database, host, ledger.report("enroll", facts=ledger.facts(4), manifest={"of": "gpu-01"})
        )
        time.sleep(1)
        ledger.finish(database, host, ledger.report("reclaim"))

    with meanwhile(enroll):
        found = cli.json("host", "enroll", "gpu-01", "192.0.2.1", *REFERENCE, "--label", "rack=b1", "--wait")
    assert found["state"] == "idle"
    assert found["gpus"] == 4
    assert found["labels"] == {"rack": "b1"}


def test_a_failed_enrollment_exits_1_and_says_what_and_where(cli: Cli, database: Database) -> None:
    def fail() -> None:
        host = only_host(database)
        time.sleep(0.7)
        ledger.finish(database, host, event=ledger.OperationEvent.FAIL, reason="no route", step="preflight")

    with meanwhile(fail):
        assert cli("host", "enroll", "gpu-01", "192.0.2.1", *REFERENCE, "--wait", code=Exit.FAILED) == ""
    assert "gpu-01: enrolling, queued" in cli.stderr
    assert "gpu-01: maintenance, failed at preflight: no route" in cli.stderr


def test_enroll_without_waiting_says_how_to_follow(cli: Cli, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    text = cli("host", "enroll", "gpu-01", "192.0.2.1", "--region", "lab", "--key", str(key))
    operation = cli.json("operations", "list")[0]["id"]
    assert f"ironyard operations watch {operation}" in text
    assert "not one" not in cli("host", "show", "gpu-01", "--json")


def test_enroll_by_hand_later(cli: Cli) -> None:
    assert cli.json("host", "enroll", "gpu-01", "192.0.2.1", *REFERENCE, "--no-enroll")["operation"] is None
    assert cli.json("host", "show", "gpu-01")["state"] == "new"
    assert cli.json("host", "re-enroll", "gpu-01", "--trust-new-host-key")["kind"] == "host.enroll"


def test_wrong_hosts(cli: Cli, tmp_path: Path) -> None:
    enroll = ("host", "enroll", "gpu-01", "192.0.2.1", "--region", "lab")
    cli.refused(*enroll, code=Exit.USAGE)
    cli.refused(*enroll, "--key", str(tmp_path / "none"), code=Exit.USAGE)
    key = tmp_path / "key"
    key.write_text("no key at all")
    assert "private key" in cli.refused(*enroll, "--key", str(key), code=Exit.INVALID)
    assert "[invalid-request]" in cli.refused("host", "enroll", "A!", "x", *REFERENCE, code=Exit.INVALID)
    cli("host", "enroll", "gpu-01", "192.0.2.1", *REFERENCE, "--no-enroll")
    assert "[already-exists]" in cli.refused(
        "host", "enroll", "gpu-01", "192.0.2.9", *REFERENCE, code=Exit.CONFLICT
    )


def test_what_destroys_asks_first(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    for action in ("reclaim", "retire"):
        said = cli.refused("host", action, "gpu-01", code=Exit.USAGE)
        assert f"This will {action} gpu-01; say --yes" in said
    assert cli.json("host", "show", "gpu-01")["state"] == "idle"
    assert cli.json("host", "reclaim", "gpu-01", "--yes", "--reason", "rounds")["kind"] == "host.reclaim"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_types_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("gpu-01\ngpu-02\n"))
    confirm("retire", "gpu-01", yes=False)
    with pytest.raises(Failure, match="nothing was done"):
        confirm("retire", "gpu-01", yes=False)


@pytest.mark.parametrize(("width", "first"), [("200", "name"), ("20", "NAME")])
def test_a_table_too_wide_for_the_terminal_is_not_folded(
    monkeypatch: pytest.MonkeyPatch, width: str, first: str
) -> None:
    screen = Terminal()
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr("sys.stdout", screen)
    output.table(("name", "id"), [("gpu-01", "01a204c8-bd70-7085-9d8e-c8f70f537a01")])
    monkeypatch.undo()
    assert first in screen.getvalue()
    assert "01a204c8-bd70-7085-9d8e-c8f70f537a01" in screen.getvalue()


def test_retire_and_wait(cli: Cli, fleet: Any, database: Database) -> None:
    host = fleet("gpu-01")

    def finish() -> None:
        time.sleep(1)
        ledger.finish(database, host, ledger.report("retire"))

    with meanwhile(finish):
        ended = cli.json("host", "retire", str(host), "--yes", "--wait")
    assert ended["state"] == "succeeded"
    assert cli.json("host", "list") == []
    assert cli.json("host", "list", "--state", "retired")[0]["name"] == "gpu-01"
    assert cli.json("host", "show", "gpu-01")["state"] == "retired"


def test_reclaim_and_wait(cli: Cli, fleet: Any, database: Database) -> None:
    host = fleet("gpu-01")

    def finish() -> None:
        time.sleep(1)
        ledger.finish(database, host, ledger.report("reclaim"))

    with meanwhile(finish):
        cli("host", "reclaim", "gpu-01", "--yes", "--wait")
    assert "gpu-01: reclaiming, queued" in cli.stderr
    assert "gpu-01: idle, 8 GPUs" in cli.stderr


def test_cordon_and_maintenance(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    assert "cordoned" in cli("host", "cordon", "gpu-01", "--reason", "firmware")
    assert cli.json("host", "list", "--cordoned")[0]["name"] == "gpu-01"
    assert cli.json("gpus")[0]["schedulable"] is False
    assert cli.json("host", "uncordon", "gpu-01")["cordoned"] is False
    assert "is maintenance" in cli("host", "maintenance", "gpu-01", "--reason", "fan")
    cli.refused("host", "verify", "gpu-01", code=Exit.CONFLICT)


def only_host(database: Database) -> UUID:
    """Once it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with database.snapshot() as tx:
            found = tx.execute(ledger.sa.select(ledger.Host.id)).scalar_one_or_none()
        if found is not None:
            return found
        time.sleep(0.1)
    raise AssertionError("no host was recorded")
