"""The claim in one statement does what the long way does, to the last column, or leaves it to that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from hypothesis import HealthCheck, Phase, event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from api.allocations import claims, queries, swift
from api.allocations.lifecycle import State
from api.allocations.models import AllocationRead, ClaimRequest
from api.core import clock
from api.core.access import Actor, Role
from api.core.db import Database
from api.core.errors import Problem
from api.settings import Settings
from tests.conftest import Client
from tests.support.pasts import SIZES, SLUGS, Bench, fleets, furnish, happen, pasts

pytestmark = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)

MORNING = datetime(2027, 3, 10, 8, tzinfo=UTC)
TABLES = SQLModel.metadata.sorted_tables
Rows = dict[str, dict[Any, tuple[Any, ...]]]


@pytest.fixture
def clock_at_work() -> Iterator[None]:
    with time_machine.travel(MORNING, tick=False):
        yield


@pytest.fixture
def people(clock_at_work: None, client: Client, fleet: Any) -> dict[str, Actor]:
    for number, gpus in enumerate(SIZES):
        fleet(f"h{number}", gpus=gpus)
    known = {"member": client.as_new("member"), "stranger": client.as_new("member")}
    for slug in SLUGS:
        client.ok("POST", "/api/v1/workspaces", 201, json={"slug": slug, "name": slug, "gpus": 12})
        path = f"/api/v1/workspaces/{slug}/members/{known['member'].user_id}"
        client.ok("PUT", path, json={"role": "member"})
    made = {who: Actor(f"{who}@example.org", Role.MEMBER, UUID(one.user_id)) for who, one in known.items()}
    return made | {"administrator": Actor("admin", Role.ADMINISTRATOR, UUID(client.user_id))}


wishes = st.fixed_dictionaries(
    {"gpus": st.integers(1, 5)},
    optional={
        "model": st.sampled_from(("H100", "H100", "A100", "B200")),
        "memory_mib": st.sampled_from((40000, 80000)),
        "region": st.sampled_from(("north", "south")),
        "priority": st.just(-5),
        "preemptible": st.booleans(),
        "purpose": st.just("a paper"),
        "length": st.sampled_from((60, 3600, 86400)),
        "end": st.sampled_from((3600, 7200, 86400, -60)),
    },
)


def simple(before: Rows, slug: str) -> bool:
    """Whether nothing is there for which the function leaves the claim to the long way."""

    def rows(name: str) -> list[dict[str, Any]]:
        columns = SQLModel.metadata.tables[name].columns.keys()
        return [dict(zip(columns, row, strict=True)) for row in before[name].values()]

    (own,) = (row for row in rows("workspaces") if row["slug"] == slug)
    reserved = {row["workspace_id"] for row in rows("reservations") if row["closed_at"] is None}
    whole = [
        row for row in rows("quotas") if row["scope"] == "organisation" and row["hard_limit"] is not None
    ]
    return not (
        rows("budgets")
        or rows("approval_rules")
        or any(row["soft_limit"] is not None for row in rows("quotas"))
        or any(row["state"] == "queued" for row in rows("allocations"))
        or own["id"] in reserved
        or (whole and reserved)
    )


# -- what comes of it ---------------------------------------------------------------------------------------


def everything(tx: Session) -> Rows:
    tx.flush()
    return {
        one.name: {_key(one, row): tuple(row) for row in found}
        for one in TABLES
        for found in (tx.execute(sa.select(one)).all(),)
    }


def _key(one: sa.Table, row: Any) -> tuple[Any, ...]:
    return tuple(row._mapping[column] for column in one.primary_key.columns)


def difference(before: Rows, after: Rows, holder: UUID) -> dict[str, Counter[str]]:
    """Of each table the rows that are new or other; ids of what is new and the order of GPUs aside."""

    def told(name: str, key: Any, row: tuple[Any, ...]) -> str:
        new = key not in before[name]
        names = SQLModel.metadata.tables[name].columns.keys()
        shown = dict(zip(names, row, strict=True))
        if new:
            shown.pop("id", None)
        if name == "audit_events" and "gpus" in shown["after"]:
            shown["after"] = shown["after"] | {"gpus": sorted(shown["after"]["gpus"])}
        return repr(shown).replace(repr(holder), "HOLDER").replace(str(holder), "HOLDER")

    found = {}
    for name, rows in after.items():
        assert rows.keys() >= before[name].keys(), "a claim removes nothing"
        changed = Counter(told(name, key, row) for key, row in rows.items() if before[name].get(key) != row)
        if changed:
            found[name] = changed
    return found


@dataclass
class Outcome:
    answer: dict[str, Any] | None
    changed: dict[str, Counter[str]]
    code: str | None = None


def attempt(bench: Bench, before: Rows, way: Callable[[], AllocationRead | None]) -> Outcome:
    """Done, looked at and taken back."""
    tx = bench.tx
    savepoint = tx.begin_nested()
    try:
        made = way()
        after = everything(tx)
        holder = made.id if made else UUID(int=0)
        answer = made.model_dump(exclude={"id"}) if made else None
        if answer:
            answer["gpus"].sort(key=lambda gpu: gpu["gpu_id"])
        return Outcome(answer, difference(before, after, holder))
    except Problem as refused:
        return Outcome(None, {}, refused.code)
    finally:
        savepoint.rollback()
        tx.expunge_all()


def both(bench: Bench, actor: Actor, asked: ClaimRequest) -> tuple[Rows, Outcome, Outcome]:
    def long_way() -> AllocationRead:
        made = claims.claim(bench.tx, actor, asked, bench.settings)
        return queries.read(made.allocation, made.workspace, made.gpus, made.warnings)

    before = everything(bench.tx)
    quick = attempt(bench, before, lambda: swift.claim(bench.tx, actor, asked, bench.settings))
    return before, quick, attempt(bench, before, long_way)


def test_one_statement_does_what_the_long_way_does(
    people: dict[str, Actor], database: Database, settings: Settings
) -> None:
    tally: Counter[str] = Counter()

    @hypothesis_settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        fleet=fleets,
        past=pasts,
        who=st.sampled_from(("administrator", "member", "member", "member", "stranger")),
        wish=wishes,
    )
    def compare(fleet: Any, past: Any, who: str, wish: dict[str, Any]) -> None:
        with Session(database.engine, expire_on_commit=False, info=dict(database.info)) as tx:
            bench = Bench(tx, settings, people)
            furnish(bench, fleet)
            made: list[UUID] = []
            for act in (*past[0], *past[1]):
                with suppress(Problem), tx.begin_nested():
                    happen(bench, act, made)
            tx.flush()
            tx.expunge_all()
            outcome = judge(*both(bench, people[who], claim_of(wish)))
            event(outcome)
            tally[outcome] += 1
            tx.rollback()

    compare()
    assert tally["swift"] >= 20, tally
    assert tally["swift"] > 2 * tally["left to the long way"], tally


def claim_of(wish: dict[str, Any]) -> ClaimRequest:
    """For the time that it names, until the end that it names, or as long as the platform says."""
    body = {name: value for name, value in wish.items() if name not in ("length", "end")}
    if "end" in wish:
        body["expires_at"] = clock.now() + timedelta(seconds=wish["end"])
    elif "length" in wish:
        body["duration_seconds"] = wish["length"]
    return ClaimRequest(workspace="red", **body)


def judge(before: Rows, quick: Outcome, slow: Outcome) -> str:
    if quick.answer is not None:
        assert slow.answer == quick.answer
        assert slow.changed == quick.changed
        return "swift"
    assert quick.changed == {}, "it declined, and left something behind"
    if quick.code is not None:
        assert quick.code == slow.code
        return "refused by both"
    if slow.answer is None:
        return f"left to the long way, which says {slow.code}"
    assert not simple(before, "red") or slow.answer["state"] is not State.ACTIVE, "it could have done this"
    return "left to the long way"
