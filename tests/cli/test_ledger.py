"""Holding GPUs, operations, reports: what a day with the platform looks like from a terminal."""

from __future__ import annotations

import csv
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.cli.client import Client
from api.cli.exits import Exit
from api.core.db import Database
from tests.cli.conftest import Cli, meanwhile
from tests.support import ledger
from tests.support.ledger import H100

pytestmark = pytest.mark.timeout(120)


def test_a_day(cli: Cli, fleet: Any, database: Database, tmp_path: Path) -> None:
    host = fleet("gpu-01")
    assert cli.json("host", "list")[0]["state"] == "idle"
    made = cli.json("allocate", "--gpus", "2", "--model", H100, "--for", "2h", "--same-host")
    assert len(made["gpus"]) == 2
    assert "gpu-01" in cli("allocations", "--state", "active")
    assert len(cli.json("gpus", "--held")) == 2
    assert len(cli.json("gpus", "--free", "--host", "gpu-01")) == 6
    shown = cli("allocation", "show", made["id"])
    assert made["gpus"][0]["uuid"] in shown
    time.sleep(1.1)
    assert "2 GPUs are given back" in cli("release", made["id"][:20])
    operation = cli.json("operations", "list", "--host", "gpu-01", "--state", "queued")[0]
    assert operation["kind"] == "host.reclaim"
    ledger.finish(database, host, ledger.report("reclaim"))
    assert cli.json("operations", "watch", operation["id"])["operation"]["state"] == "succeeded"
    out = tmp_path / "usage.csv"
    cli("report", "usage", "--output", str(out))
    lines = list(csv.DictReader(out.read_text().splitlines()))
    assert sum(int(line["gpu_seconds"] or 0) for line in lines) >= 2
    assert "allocation.released" in cli("audit", "list")


def test_plain_output_is_one_line_a_thing(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=3, labels={"rack": "b12"})
    heading, *lines = cli("gpus").splitlines()
    assert heading.split()[:3] == ["HOST", "INDEX", "GPU"]
    assert len(lines) == 3
    assert all(H100 in line and "\x1b" not in line and line == line.rstrip() for line in lines)
    assert "rack=b12" in cli("host", "list")
    assert "GPU-" in cli("host", "show", "gpu-01")


def test_lists_follow_their_pages(cli: Cli, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet("gpu-01")
    monkeypatch.setattr("api.cli.client.PAGE", 3)
    assert [gpu["index"] for gpu in cli.json("gpus")] == list(range(8))
    assert len(cli.json("gpus", "--limit", "4")) == 4


def test_conflicts_exit_6_with_their_numbers(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=4)
    assert "[capacity-exceeded]" in cli.refused("allocate", "--gpus", "5", code=Exit.CONFLICT)
    assert "[quota-exceeded]" in cli.refused("allocate", "--gpus", "9", code=Exit.CONFLICT)
    held = cli.json("allocate", "--gpus", "1")["id"]
    assert "[host-not-idle]" in cli.refused("host", "reclaim", "gpu-01", "--yes", code=Exit.CONFLICT)
    assert cli.json("release", held)[0]["state"] == "released"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("allocate",), Exit.USAGE),
        (("allocate", "--gpus", "0"), Exit.USAGE),
        (("allocate", "--gpus", "1", "--for", "soon"), Exit.USAGE),
        (("allocate", "--gpus", "1", "--for", "1h", "--until", "2030-01-01"), Exit.USAGE),
        (("allocate", "--gpus", "1", "--label", "rack"), Exit.USAGE),
        (("allocate", "--gpus", "1", "--until", "2001-01-01"), Exit.INVALID),
        (("allocate", "--gpus", "1", "--workspace", "nowhere"), Exit.NOT_FOUND),
        (("allocations", "--state", "gone"), Exit.INVALID),
        (("release", "0000"), Exit.NOT_FOUND),
        (("extend", "0000"), Exit.USAGE),
        (("operations", "show", "0000"), Exit.NOT_FOUND),
        (("host", "show", "nowhere"), Exit.NOT_FOUND),
        (("report", "usage", "--from", "yesterday"), Exit.USAGE),
        (("report", "usage", "--from", "2030-01-01", "--to", "2029-01-01"), Exit.INVALID),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.name,
)
def test_wrong_input(cli: Cli, arguments: tuple[str, ...], code: Exit) -> None:
    assert cli.refused(*arguments, code=code)


def test_the_same_key_gives_the_same_allocation(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    first, second = (
        cli.json("allocate", "--gpus", "1", "--for", "1h", "--idempotency-key", "k") for _ in range(2)
    )
    assert first["id"] == second["id"]
    assert len(cli.json("gpus", "--held")) == 1


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    cli: Cli, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx2 as httpx

    fleet("gpu-01")
    call = Client._call
    lost = []

    def lose_the_first(self: Client, method: str, *rest: Any) -> Any:
        answer = call(self, method, *rest)
        if method == "POST" and not lost:
            lost.append(answer)
            raise httpx.ReadError("the connection was cut")
        return answer

    monkeypatch.setattr(Client, "_call", lose_the_first)
    made = cli.json("allocate", "--gpus", "2")
    assert made["id"] == lost[0].json()["id"]
    assert len(cli.json("gpus", "--held")) == 2


def test_release_of_several_goes_on_after_a_failure(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    held = [cli.json("allocate", "--gpus", "1")["id"] for _ in range(2)]
    text = cli("release", held[0], "ffff", held[1][-12:], code=Exit.NOT_FOUND)
    assert text.count("given back") == 2
    assert "no open allocation ffff" in cli.stderr


def test_extend_adds_to_the_planned_end_or_names_a_new_one(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    made = cli.json("allocate", "--gpus", "1", "--for", "1h")
    longer = cli.json("extend", made["id"], "--for", "30m")
    planned = datetime.fromisoformat(made["expires_at"])
    assert datetime.fromisoformat(longer["expires_at"]) == planned + timedelta(minutes=30)
    end = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    assert f"{end:%Y-%m-%d %H:%M:%SZ}" in cli("extend", made["id"], "--until", end.isoformat())


def test_watch_streams_the_log_and_fails_with_the_operation(cli: Cli, fleet: Any, database: Database) -> None:
    host = fleet("gpu-01")
    operation = cli.json("host", "verify", "gpu-01")

    def fail() -> None:
        time.sleep(1)
        ledger.finish(database, host, event=ledger.OperationEvent.FAIL, reason="fan 3 is loud", step="verify")

    with meanwhile(fail):
        text = cli("operations", "watch", operation["id"], code=Exit.FAILED)
    assert "host.verify gpu-01: queued" in text
    assert "host.verify gpu-01: failed: fan 3 is loud" in text
    assert cli.stderr == "ironyard: host.verify of gpu-01 failed: fan 3 is loud\n"
    assert "maintenance" in cli("host", "list")
    assert "fan 3 is loud" in cli("host", "show", "gpu-01")


def test_operations_are_cancelled(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    operation = cli.json("host", "verify", "gpu-01", "--reason", "rounds")
    assert cli.json("operations", "cancel", operation["id"][-12:])["cancel_requested"]
    assert cli.json("operations", "show", operation["id"])["cancel_requested"]


def test_reports_in_three_forms(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=1)
    cli.json("allocate", "--gpus", "1")
    time.sleep(1.1)
    since = datetime.now(UTC).date().isoformat()
    report = cli.json("report", "usage", "--from", since)
    raw = json.loads(cli("report", "usage", "--from", since, "--format", "json"))
    assert raw["usage"][0]["gpu_uuid"] == report["usage"][0]["gpu_uuid"]
    assert cli("report", "usage", "--format", "csv").startswith("part,")
    assert "WORKSPACE" in cli("report", "usage")
