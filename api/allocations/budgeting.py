"""Setting budgets, and what a workspace's move to another organisation or time zone does to them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import spending
from api.core import audit, clock, etags
from api.core.access import Actor
from api.core.db import table
from api.workspaces import budgets, scopes
from api.workspaces.budgets import Account
from api.workspaces.limit_models import BudgetKind, BudgetPeriodRead, BudgetRead, BudgetSet
from api.workspaces.models import Budget, BudgetPeriod, Spent, Workspace
from api.workspaces.periods import cover, month_of
from api.workspaces.scopes import Scoped
from api.workspaces.spans import HOUR, MILLIONTH, Spans

PERIODS = table(BudgetPeriod)
KINDS = {Spent.GPU_SECONDS: BudgetKind.GPU_HOURS, Spent.MONEY: BudgetKind.MONEY}
MOMENT = timedelta(microseconds=1)
Limits = tuple[Decimal | None, Decimal | None]


def rows(tx: Session, scoped: Scoped) -> list[Budget]:
    own = sa.select(Budget).where(col(Budget.scope_id) == scoped.id).order_by(col(Budget.resource))
    return list(tx.execute(own).scalars())


def version(tx: Session, scoped: Scoped) -> str:
    return etags.version(*rows(tx, scoped))


def locked_version(tx: Session, scoped: Scoped) -> str:
    return version(tx, scopes.lock(tx, scoped))


def set_budgets(tx: Session, actor: Actor, scoped: Scoped, asked: BudgetSet) -> None:
    """Replace all budgets of a locked scope.

    A new one counts from the present month on what is held and reserved already, even where that is more than
    the limit. Lowering one below what is promised ends nothing; it only blocks what is new.
    """
    present = {row.resource: row for row in rows(tx, scoped)}
    before = _told(list(present.values()))
    for resource, (hard, soft) in _wanted(asked).items():
        row = present.get(resource)
        if row is None and (hard is not None or soft is not None):
            _open(tx, scoped, resource, hard, soft)
        elif row is not None and hard is None and soft is None:
            tx.delete(row)
        elif row is not None:
            row.hard_limit, row.soft_limit = hard, soft
    tx.flush()
    budgets.flag(tx, scoped.workspaces)
    after = _told(rows(tx, scoped))
    audit.record(tx, actor, "budget.changed", scoped.audited, before=before, after=after)


def _wanted(asked: BudgetSet) -> dict[Spent, Limits]:
    def seconds(hours: Decimal | None) -> Decimal | None:
        return None if hours is None else hours * HOUR

    return {
        Spent.GPU_SECONDS: (seconds(asked.gpu_hours), seconds(asked.soft.gpu_hours)),
        Spent.MONEY: (asked.money, asked.soft.money),
    }


def _open(tx: Session, scoped: Scoped, resource: Spent, hard: Decimal | None, soft: Decimal | None) -> None:
    made = Budget(
        scope_id=scoped.id,
        resource=resource,
        scope=scoped.scope,
        workspace_id=scoped.workspace_id,
        hard_limit=hard,
        soft_limit=soft,
    )
    tx.add(made)
    tx.flush()
    month = month_of(clock.now(), scoped.zone)
    spans = spending.between(tx, scoped.workspaces, scoped.user_id, month.start)
    (account,) = (one for one in budgets.of(tx, scoped) if one.resource is resource)
    budgets.fill(tx, account, cover([month], scoped.zone, _last(spans, month.end)), spans)


def _last(spans: Spans, least: datetime) -> datetime:
    return max((span.late or span.end for span in spans), default=least)


def _told(present: list[Budget]) -> dict[str, Any]:
    """As the audit trail keeps it: GPU-seconds and money, hard and soft."""
    return {row.resource.value: [_text(row.hard_limit), _text(row.soft_limit)] for row in present}


def _text(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")


def move(tx: Session, workspace_id: UUID, giving: Scoped, taking: Scoped) -> None:
    """Count what a workspace has used and promised with another organisation, both locked.

    Raises BudgetExceeded and NoRate where that one's budgets do not reach.
    """
    whose = frozenset({workspace_id})
    old, new = (
        [replace(account, workspaces=whose) for account in budgets.of(tx, scoped)]
        for scoped in (giving, taking)
    )
    begins = [period.start for account in (*old, *new) for period in account.periods]
    if begins:
        spans = spending.between(tx, whose, None, min(begins))
        budgets.transfer(tx, old, spans, Spans())
        budgets.transfer(tx, new, Spans(), spans)


def change_zone(tx: Session, workspace: Workspace, scoped: list[Scoped]) -> None:
    """Cut the months after the present one anew, for the locked workspace's own budgets and its members'.

    They may then hold more than the limit: nothing new was asked for.
    """
    for scope in scoped:
        for account in budgets.of(tx, replace(scope, zone=workspace.time_zone)):
            _cut_anew(tx, account)


def _cut_anew(tx: Session, account: Account) -> None:
    now = clock.now()
    kept = [period for period in account.periods if period.start <= now]
    if not kept:
        return
    edge = kept[-1].end
    tx.execute(
        sa.delete(PERIODS).where(
            PERIODS.c.scope_id == account.scope_id,
            PERIODS.c.resource == account.resource,
            PERIODS.c.period_start >= edge,
        )
    )
    spans = spending.between(tx, account.workspaces, account.user_id, edge)
    periods = cover(kept, account.zone, _last(spans, edge))
    budgets.fill(tx, account, periods[len(kept) :], spans)


def read(tx: Session, scoped: Scoped, currency: str) -> list[BudgetRead]:
    """Each budget with its periods from the present one on."""
    return [_read(account, currency) for account in budgets.of(tx, scoped)]


def _read(account: Account, currency: str) -> BudgetRead:
    now = clock.now()
    known = cover(list(account.periods), account.zone, now + MOMENT)
    return BudgetRead(
        resource=KINDS[account.resource],
        currency=currency if account.resource is Spent.MONEY else None,
        hard_limit=shown(account.resource, account.hard),
        soft_limit=shown(account.resource, account.soft),
        periods=[
            BudgetPeriodRead(
                start=period.start,
                end=period.end,
                committed=told(account.resource, account.periods.get(period, Decimal(0))),
                overrun=told(account.resource, account.late.get(period, Decimal(0))),
            )
            for period in known
            if period.end > now
        ],
    )


def told(resource: Spent, value: Decimal) -> Decimal:
    """GPU-hours to six places, or money."""
    return (value / HOUR).quantize(MILLIONTH) if resource is Spent.GPU_SECONDS else value


def shown(resource: Spent, value: Decimal | None) -> Decimal | None:
    return None if value is None else told(resource, value)
