"""Budgets: what they say is promised is the sum over allocations, and fits unless they were lowered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

from api.workspaces.models import Spent
from tests.machine.snapshot import Ledger, Memory

NOTHING = Decimal(0)


@dataclass(frozen=True)
class Use:
    """One GPU's planned time, what it costs an hour, and until when it was held after its plan."""

    scopes: frozenset[UUID | None]
    rate: Decimal | None
    start: datetime
    end: datetime
    late: datetime | None = None


def uses(ledger: Ledger) -> Iterator[Use]:
    member = {(row.workspace_id, row.user_id): row.id for row in ledger.members.values()}

    def scopes(row: Any) -> frozenset[UUID | None]:
        home = ledger.workspaces[row.workspace_id].organisation_id
        return frozenset((row.workspace_id, home, member.get((row.workspace_id, row.user_id))))

    for row in ledger.holds:
        planned = max(ledger.allocations[row.allocation_id].ends_at, row.started_at)
        ended = row.ended_at or planned
        late = ended if ended > planned else None
        yield Use(scopes(row), row.rate, row.started_at, min(planned, ended), late)
    for row in ledger.reservations:
        if row.closed_at is None:
            yield Use(scopes(row), row.rate, row.starts_at, row.ends_at)


def cost(use: Use, row: Any, start: datetime, end: datetime) -> Decimal:
    """Of `[start, end)` as far as it is in the budget's period: whole seconds, or money of them."""
    first, last = max(start, row.period_start), min(end, row.period_end)
    seconds = max(0, int(last.timestamp() // 1) - int(first.timestamp() // 1))
    if row.resource is Spent.GPU_SECONDS:
        return Decimal(seconds)
    exact = (use.rate or NOTHING) * seconds / 3600
    return exact.quantize(Decimal("0.000001"), ROUND_HALF_UP)


def budgets_say_the_sum(ledger: Ledger, _: Memory) -> None:
    if not ledger.budget_periods:
        return
    of_scope: dict[UUID | None, list[Use]] = defaultdict(list)
    for use in uses(ledger):
        for scope in use.scopes:
            of_scope[scope].append(use)
    for row in ledger.budget_periods:
        mine = of_scope[row.scope_id]
        committed = sum((cost(use, row, use.start, use.end) for use in mine), NOTHING)
        overrun = sum((cost(use, row, use.end, use.late) for use in mine if use.late), NOTHING)
        assert (row.committed, row.overrun) == (committed, overrun), "a budget is not the sum of its uses"


def periods_adjoin(ledger: Ledger, _: Memory) -> None:
    of_budget: dict[tuple[UUID, str], list[Any]] = defaultdict(list)
    for row in ledger.budget_periods:
        of_budget[row.scope_id, row.resource].append(row)
    assert of_budget.keys() == ledger.budgets.keys(), "periods and budgets go together"
    for rows in of_budget.values():
        for first, second in pairwise(sorted(rows, key=lambda row: row.period_start)):
            assert first.period_end == second.period_start, "a budget's periods have a hole"


def whoever_is_under_a_budget_is_marked(ledger: Ledger, _: Memory) -> None:
    """A claim looks at budgets only where the workspace's quota says that there are some."""
    of_organisation = {row.scope_id for row in ledger.budgets.values() if row.workspace_id is None}
    of_workspace = {row.workspace_id for row in ledger.budgets.values()}
    for row in ledger.quotas:
        own = ledger.workspaces.get(row.scope_id)
        if own is not None and row.resource == "gpus" and row.model == "":
            under = own.id in of_workspace or own.organisation_id in of_organisation
            assert row.budgeted == under, "a workspace's budgets are not where claims look"


def budgets_are_kept(ledger: Ledger, memory: Memory) -> None:
    """More than the limit is promised only where it was lowered, set or cut anew over what was promised."""
    seen, accounts = {}, set()
    for row in ledger.budget_periods:
        budget = ledger.budgets[row.scope_id, row.resource]
        own = ledger.workspaces.get(budget.workspace_id)
        account = (row.scope_id, row.resource, own.time_zone if own else "UTC")
        key = (row.scope_id, row.resource, row.period_start)
        if budget.hard_limit is not None and row.committed > budget.hard_limit:
            known = NOTHING if account in memory.accounts else row.committed
            assert row.committed <= memory.committed.get(key, known), "more was promised past a budget"
        seen[key] = row.committed
        accounts.add(account)
    memory.committed, memory.accounts = seen, accounts


PROMISES = (
    budgets_say_the_sum,
    periods_adjoin,
    whoever_is_under_a_budget_is_marked,
    budgets_are_kept,
)
