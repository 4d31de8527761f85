"""Quotas, budgets, use, rates and organisations from a terminal, of organisations, workspaces and members."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from api.cli.exits import Exit
from api.core.db import Database
from api.identity import service as identity
from tests.cli.conftest import Cli
from tests.support.ledger import H100

pytestmark = pytest.mark.timeout(120)
ADA = "ada@example.org"


@pytest.fixture
def ada(cli: Cli, app: FastAPI, database: Database) -> str:
    """A member of `default`: how she is signed in."""
    made = cli.json("user", "create", ADA)
    cli("workspace", "add-member", "default", ADA)
    with database.transaction() as tx:
        token: str = app.state.tokens.issue(identity.get_user(tx, UUID(made["id"])))
    return token


def limits(rows: Any) -> dict[str, tuple[int | None, int | None]]:
    return {row["model"] or row["resource"]: (row["hard_limit"], row["soft_limit"]) for row in rows}


def budgets(rows: Any) -> dict[str, tuple[Decimal | None, Decimal | None]]:
    def number(text: str | None) -> Decimal | None:
        return None if text is None else Decimal(text)

    return {row["resource"]: (number(row["hard_limit"]), number(row["soft_limit"])) for row in rows}


def line(text: str, beginning: str) -> list[str]:
    """The cells of the first line that begins so."""
    found = next(one for one in text.splitlines() if one.startswith(beginning))
    return found.removeprefix(beginning).split()


def test_a_quota_keeps_the_limits_that_are_not_named(cli: Cli) -> None:
    cli("workspace", "create", "vision", "--gpus", "4")
    first = ("--model", "NVIDIA T4=2", "--storage", "500", "--environments", "3", "--soft-gpus", "3")
    cli("workspace", "quota", "vision", *first, "--soft-model", "NVIDIA T4=1", "--soft-storage", "400")
    text = cli("workspace", "quota", "vision", "--gpus", "6", "--soft-environments", "2")
    assert line(text, "GPUs") == ["6", "3", "0"]
    assert line(text, "NVIDIA T4") == ["2", "1", "0"]
    assert line(text, "storage GiB") == ["500", "400", "0"]
    assert line(text, "environments") == ["3", "2", "0"]
    cli("workspace", "quota", "vision", "--model", "NVIDIA T4=none", "--soft-model", "NVIDIA T4=none")
    rows = cli.json("workspace", "quota", "vision", "--storage", "none", "--soft-storage", "none")
    assert limits(rows)["gpus"] == (6, 3)
    assert "NVIDIA T4" not in limits(rows)
    assert limits(rows).get("storage_gib", (None, None)) == (None, None)


def test_a_member_has_a_quota_of_its_own(
    cli: Cli, fleet: Any, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet("gpu-01")
    assert limits(cli.json("workspace", "quota", "default", "--member", ADA, "--gpus", "1")) == {
        "gpus": (1, None)
    }
    with monkeypatch.context() as hers:
        hers.setenv("IRONYARD_TOKEN", ada)
        assert "[quota-exceeded]" in cli.refused("allocate", "--gpus", "2", code=Exit.CONFLICT)
        cli("allocate", "--gpus", "1", "--for", "2h")
        own = ("--member", ADA.upper())
        assert line(cli("workspace", "quota", "default", *own), "GPUs") == ["1", "-", "1"]
        assert "ada@example.org" in cli("usage", "--member", ADA)
        cli.refused("workspace", "quota", "default", *own, "--gpus", "9", code=Exit.DENIED)
        cli.refused("budget", "set", "--money", "9", code=Exit.DENIED)
        cli.refused("budget", "show", "--organisation", "default", code=Exit.DENIED)
        cli.refused("rates", "set", "1", code=Exit.DENIED)
        cli.refused("organisation", "create", "mine", code=Exit.DENIED)


def test_budgets_are_set_part_by_part_at_every_level(cli: Cli, ada: str) -> None:
    del ada
    assert cli.json("budget", "show") == []
    cli("budget", "show")
    assert cli.stderr == "There is no budget of the workspace default.\n"
    cli("rates", "set", "2")
    for whose in ((), ("--organisation", "default"), ("--member", ADA)):
        cli("budget", "set", *whose, "--gpu-hours", "2000", "--soft-gpu-hours", "1500.5")
        text = cli("budget", "set", *whose, "--money", "5000.25")
        assert line(text, "GPU-hours")[:2] == ["2000.00", "1500.50"]
        assert line(text, "money USD")[:2] == ["5000.25", "-"]
        rows = cli.json("budget", "set", *whose, "--gpu-hours", "1800", "--money", "none")
        assert budgets(rows) == {"gpu_hours": (Decimal(1800), Decimal("1500.5"))}
        assert budgets(cli.json("budget", "show", *whose)) == budgets(rows)
        cli("budget", "set", *whose, "--gpu-hours", "none", "--soft-gpu-hours", "none")
        assert cli.json("budget", "show", *whose) == []


def test_a_claim_is_committed_and_refused_by_the_budget(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    cli("rates", "set", "2")
    cli("budget", "set", "--gpu-hours", "10", "--soft-money", "3")
    cli("allocate", "--gpus", "2", "--for", "4h")
    assert "soft" in cli.stderr
    assert "[budget-exceeded]" in cli.refused("allocate", "--gpus", "6", "--for", "1d", code=Exit.CONFLICT)
    shown = line(cli("budget", "show"), "GPU-hours")
    assert shown[0] == "10.00"
    rows = cli.json("budget", "show")
    months = {row["resource"]: row["periods"] for row in rows}
    assert sum(Decimal(month["committed"]) for month in months["gpu_hours"]) == 8
    assert sum(Decimal(month["committed"]) for month in months["money"]) == 16


def test_use_tells_now_the_month_and_what_it_comes_to(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    cli("rates", "set", "2")
    cli("budget", "set", "--gpu-hours", "3", "--soft-gpu-hours", "1", "--soft-money", "1")
    cli("budget", "set", "--organisation", "default", "--soft-gpu-hours", "1")
    cli("allocate", "--gpus", "1", "--for", "2h")
    text = cli("usage")
    assert text.startswith("Use of the workspace default, whose months are those of UTC\n")
    assert line(text, "GPUs") == ["8", "-", "1"]
    assert "\nTHIS MONTH  LIMIT  SOFT  USED  COMMITTED  OVERRUN  FORECAST  UNTIL\n" in text
    hours = line(text, "GPU-hours")
    assert hours[:2] == ["3.00", "1.00"]
    month = next(row for row in cli.json("usage")["months"] if row["resource"] == "gpu_hours")
    assert float(hours[5]) == pytest.approx(float(month["forecast"]), abs=0.02)
    if Decimal(month["forecast"]) > 1:  # the month's last hours leave less to come
        assert "money USD will probably be" in text
        assert "above the soft limit." in text
        assert "Use of the organisation default" in cli("usage", "--organisation", "default")
    assert cli.json("usage", "-o", "default")["scope"] == "organisation"


def test_rates_begin_at_their_time(cli: Cli) -> None:
    said = cli("rates", "set", "2.105", "--model", H100)
    assert said.startswith(f"A GPU of {H100} in any region costs 2.105 USD an hour from ")
    later = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    coming = cli.json("rates", "set", "2", "--model", H100, "--from", later.isoformat())
    assert datetime.fromisoformat(coming["effective_from"]) == later
    assert "any model in north costs 1.00 USD" in cli("rates", "set", "1", "--region", "north")
    assert len(cli.json("rates", "list")) == 3
    assert {row["model"] for row in cli.json("rates", "list", "--current")} == {H100, None}
    text = cli("rates", "list", "--current")
    assert "2.105 USD" in text
    assert f"{later:%Y-%m-%d}" not in text
    past = (later - timedelta(days=30)).isoformat()
    assert "past" in cli.refused("rates", "set", "3", "--from", past, code=Exit.INVALID)
    again = ("rates", "set", "9", "--model", H100, "--from", later.isoformat())
    assert "same moment" in cli.refused(*again, code=Exit.CONFLICT)


def test_organisations_hold_workspaces_and_limit_them(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    assert "Organisation research is there." in cli("organisation", "create", "research")
    assert "is called Research now" in cli("organisation", "rename", "research", "--name", "Research")
    assert {row["slug"] for row in cli.json("organisation", "list")} == {"default", "research"}
    assert "Research" in cli("organisation", "list")
    made = ("--organisation", "research", "--time-zone", "Europe/Berlin")
    assert cli.json("workspace", "create", "vision", *made)["time_zone"] == "Europe/Berlin"
    said = cli("workspace", "change", "default", "--organisation", "research", "--name", "All")
    assert said == "default (All) belongs to research; its months are those of UTC.\n"
    assert {row["slug"] for row in cli.json("organisation", "show", "research")["workspaces"]} == {
        "default",
        "vision",
    }
    assert "Europe/Berlin" in cli("organisation", "show", "research")
    text = cli("organisation", "quota", "research", "--gpus", "2", "--soft-gpus", "1", "--model", f"{H100}=2")
    assert line(text, "GPUs") == ["2", "1", "0"]
    cli("allocate", "--gpus", "2")
    assert "[quota-exceeded]" in cli.refused("allocate", "--gpus", "1", code=Exit.CONFLICT)
    assert line(cli("organisation", "quota", "research"), H100) == ["2", "-", "2"]
    assert "Asia/Tokyo" in cli("workspace", "change", "vision", "--time-zone", "Asia/Tokyo")
    cli("organisation", "create", "small")
    cli("organisation", "quota", "small", "--gpus", "1")
    cli.refused("workspace", "change", "default", "--organisation", "small", code=Exit.CONFLICT)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("workspace", "quota", "default", "--gpus", "many"), Exit.USAGE),
        (("workspace", "quota", "default", "--model", f"{H100}=-1"), Exit.USAGE),
        (("workspace", "quota", "default", "--soft-model", H100), Exit.USAGE),
        (("workspace", "quota", "default", "--gpus", "none"), Exit.INVALID),
        (("workspace", "quota", "default", "--soft-gpus", "9"), Exit.INVALID),
        (("workspace", "quota", "default", "--member", "nobody@example.org"), Exit.NOT_FOUND),
        (("workspace", "quota", ""), Exit.NOT_FOUND),
        (("organisation", "quota", "nowhere", "--gpus", "1"), Exit.NOT_FOUND),
        (("organisation", "show", "nowhere"), Exit.NOT_FOUND),
        (("organisation", "create", "default"), Exit.CONFLICT),
        (("organisation", "create", "Not A Slug"), Exit.INVALID),
        (("organisation", "rename", "default"), Exit.USAGE),
        (("workspace", "change", "default"), Exit.USAGE),
        (("workspace", "change", "default", "--time-zone", "Mars/Olympus"), Exit.INVALID),
        (("workspace", "change", "default", "--organisation", "nowhere"), Exit.NOT_FOUND),
        (("budget", "set"), Exit.USAGE),
        (("budget", "set", "--money", "much"), Exit.USAGE),
        (("budget", "set", "--money", "NaN"), Exit.USAGE),
        (("budget", "set", "--gpu-hours", "-1"), Exit.USAGE),
        (("budget", "set", "--gpu-hours", "0.001"), Exit.INVALID),
        (("budget", "set", "--gpu-hours", "5", "--soft-gpu-hours", "6"), Exit.INVALID),
        (("budget", "set", "-o", "default", "-w", "default", "--money", "1"), Exit.USAGE),
        (("budget", "show", "-w", "nowhere"), Exit.NOT_FOUND),
        (("budget", "show", "-o", "nowhere"), Exit.NOT_FOUND),
        (("usage", "-o", "default", "--member", ADA), Exit.USAGE),
        (("usage", "--member", "nobody@example.org"), Exit.NOT_FOUND),
        (("usage", "-w", "no/where?"), Exit.NOT_FOUND),
        (("rates", "set"), Exit.USAGE),
        (("rates", "set", "cheap"), Exit.USAGE),
        (("rates", "set", "1", "--from", "tomorrow"), Exit.USAGE),
        (("rates", "set", "0.0000001"), Exit.INVALID),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.name,
)
def test_wrong_input(cli: Cli, arguments: tuple[str, ...], code: Exit) -> None:
    assert cli.refused(*arguments, code=code)


def test_somebody_else_s_change_is_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.cli.client import Client

    send, others = Client._request, ["budget", "set", "--money", "7"]

    def late(self: Client, method: str, path: str, **more: Any) -> Any:
        if method == "PUT" and others:
            arguments, others[:] = list(others), []
            cli(*arguments)
        return send(self, method, path, **more)

    cli("rates", "set", "2")
    monkeypatch.setattr(Client, "_request", late)
    assert budgets(cli.json("budget", "set", "--gpu-hours", "5")) == {
        "gpu_hours": (Decimal(5), None),
        "money": (Decimal(7), None),
    }


def test_a_claim_says_what_happens_next(
    cli: Cli, fleet: Any, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet("gpu-01", gpus=2)
    begin = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    said = cli("allocate", "--gpus", "1", "--from", begin.isoformat(), "--for", "2h")
    assert f"They are held for you from {begin:%Y-%m-%d %H:%M:%SZ} (" in said
    cli("allocate", "--gpus", "2", "--for", "3h")
    said = cli("allocate", "--gpus", "1", "--for", "1h", "--wait")
    assert "It is number 1 in the queue and is granted when such GPUs come free, by the known ends at" in said
    said = cli("allocate", "--gpus", "1", "--for", "1h", "--wait")
    assert "It is number 2 in the queue" in said
    cli("workspace", "approval", "default", "--by", "workspace")
    monkeypatch.setenv("IRONYARD_TOKEN", ada)
    said = cli("allocate", "--gpus", "1", "--for", "1h")
    assert "Nothing is held before an owner or admin of the workspace approves it" in said
