"""The usage report: whole seconds that add up, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine

from api.billing import service
from api.core.db import Database, table
from api.fleet.models import HostPeriod
from tests.conftest import Client
from tests.support import ledger

USAGE = "/api/v1/admin/reports/usage"
DAY = datetime(2026, 3, 2, tzinfo=UTC)
WINDOW = {"from": "2026-03-02T00:00:00Z", "to": "2026-03-03T00:00:00Z"}


@pytest.fixture
def a_day(client: Client, fleet: Any, database: Database) -> str:
    """8 GPUs from 01:00; 2 held 02:00-03:30:00.9; reclaimed until 04:00; in maintenance from 10:00."""
    client.headers["Authorization"] = f"Bearer {token_for(client)}"
    with time_machine.travel(DAY + timedelta(hours=1), tick=False):
        host = fleet("a")
    with time_machine.travel(DAY + timedelta(hours=2), tick=False):
        held = client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 2})["id"]
    with time_machine.travel(DAY + timedelta(hours=3, minutes=30, microseconds=900_000), tick=False):
        client.ok("POST", f"/api/v1/allocations/{held}/release")
    with time_machine.travel(DAY + timedelta(hours=4), tick=False):
        ledger.finish(database, host, ledger.report("reclaim"))
    with time_machine.travel(DAY + timedelta(hours=10), tick=False):
        client.ok("POST", f"/api/v1/admin/machines/{host}/maintenance", json={"reason": "x"})
    return str(held)


def token_for(client: Client) -> str:
    key: str = client.ok("POST", "/api/v1/api-keys", 201, json={"name": "time traveller"})["key"]
    return key


def test_each_hold_is_a_line_of_whole_seconds(client: Client, a_day: str) -> None:
    report = client.ok("GET", USAGE, params=WINDOW)
    assert len(report["usage"]) == 2
    line = report["usage"][0]
    assert (line["allocation_id"], line["workspace"], line["host"]) == (a_day, "default", "a")
    assert (line["gpu_seconds"], line["open"]) == (5400, False)


def test_the_parts_of_a_gpus_time_add_up(client: Client, a_day: str) -> None:
    for line in client.ok("GET", USAGE, params=WINDOW)["capacity"]:
        assert line["enrolled_seconds"] == 23 * 3600
        parts = ("allocated", "idle", "reclaiming", "maintenance")
        assert sum(line[f"{part}_seconds"] for part in parts) == line["enrolled_seconds"]
        assert line["maintenance_seconds"] == 14 * 3600
        assert line["reclaiming_seconds"] == 1800
        assert line["allocated_seconds"] in (0, 5400)


def test_windows_cut_anywhere_add_up(client: Client, a_day: str) -> None:
    cuts = [
        "2026-03-02T00:00:00Z",
        "2026-03-02T02:17:11.5Z",
        "2026-03-02T03:30:00.5Z",
        "2026-03-03T00:00:00Z",
    ]
    whole = client.ok("GET", USAGE, params=WINDOW)
    parts = [client.ok("GET", USAGE, params={"from": first, "to": last}) for first, last in pairwise(cuts)]
    for name in ("enrolled", "allocated", "idle", "reclaiming", "maintenance"):
        total = sum(line[f"{name}_seconds"] for line in whole["capacity"])
        assert sum(line[f"{name}_seconds"] for part in parts for line in part["capacity"]) == total
    total = sum(line["gpu_seconds"] for line in whole["usage"])
    assert sum(line["gpu_seconds"] for part in parts for line in part["usage"]) == total


def test_csv_says_the_same(client: Client, a_day: str) -> None:
    response = client.get(USAGE, params=WINDOW | {"format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert "usage-20260302T000000Z-20260303T000000Z.csv" in response.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["part"] for row in rows] == ["usage"] * 2 + ["capacity"] * 8
    assert rows[0]["gpu_seconds"] == "5400"
    assert rows[0]["allocation_id"] == a_day


def test_a_cell_never_becomes_a_formula() -> None:
    assert service._safe("=1+1") == "'=1+1"
    assert service._safe("h100") == "h100"


def test_an_open_hold_counts_until_now(client: Client, fleet: Any) -> None:
    fleet("a")
    client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 1})
    window = {"from": "2020-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"}
    report = client.ok("GET", USAGE, params=window)
    assert report["usage"][0]["open"] is True
    assert report["end"] == report["generated_at"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        {"from": "2098-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"},
        {"from": "2026-01-01T00:00:00", "to": "2026-01-02T00:00:00"},
        {"from": "yesterday", "to": "today"},
        {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z", "format": "pdf"},
    ],
)
def test_bad_windows_are_refused(client: Client, params: dict[str, str]) -> None:
    client.problem("GET", USAGE, 422, "invalid-request", params=params)


def test_a_ledger_that_contradicts_itself_is_not_reported(
    client: Client, a_day: str, database: Database
) -> None:
    periods = table(HostPeriod)
    with database.transaction() as tx:
        tx.execute(sa.update(periods).where(periods.c.state == "allocated").values(state="idle"))
    with pytest.raises(service.LedgerContradiction), database.snapshot() as tx:
        service.usage_report(tx, DAY, DAY + timedelta(days=1))
