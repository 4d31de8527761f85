"""Budgets of a calendar month: what is promised of them moves with what is held and reserved.

Every change of an allocation moves `committed` by the difference between its planned time before and after,
so that it always is the sum over all allocations. The caller has locked the tenants; the rows of
`budget_periods` are locked here, last of all and in the order of their keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from api.core import notices
from api.core.db import is_sqlite, table
from api.workspaces import overdraft
from api.workspaces.models import (
    ALL_MODELS,
    Budget,
    BudgetPeriod,
    Membership,
    Quota,
    Resource,
    Scope,
    Spent,
    Workspace,
)
from api.workspaces.overdraft import NoRate
from api.workspaces.periods import Period, cover
from api.workspaces.spans import Spans, overrun, planned, unpriced_seconds

if TYPE_CHECKING:
    from api.workspaces.scopes import Scoped

BUDGETS, PERIODS = table(Budget), table(BudgetPeriod)
ORGANISATIONS_ZONE = "UTC"


@dataclass(slots=True)
class Account:
    """A budget, whose spans it counts, and its periods with what is committed and what overrun."""

    scope: Scope
    scope_id: UUID
    resource: Spent
    name: str
    hard: Decimal | None
    soft: Decimal | None
    zone: str
    workspaces: frozenset[UUID]
    user_id: UUID | None = None
    periods: dict[Period, Decimal] = field(default_factory=dict)
    late: dict[Period, Decimal] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return str(self.scope_id), self.resource.value

    def mine(self, spans: Spans) -> Spans:
        """Those that count in this budget."""
        return Spans(
            {
                span: n
                for span, n in spans.items()
                if span.workspace_id in self.workspaces
                and (self.scope is not Scope.MEMBER or span.user_id == self.user_id)
            }
        )


@dataclass(frozen=True, slots=True)
class Move:
    """What one budget's committed and overrun change by in one period."""

    account: Account
    period: Period
    committed: Decimal
    overrun: Decimal


def move(tx: Session, before: Spans, after: Spans, *, grace: timedelta = timedelta()) -> list[str]:
    """Count what changes from `before` to `after` in every budget; warnings of soft limits that it crossed.

    What rises must fit: raises BudgetExceeded, with what would fit, and NoRate for a GPU without a price
    under a budget of money. What falls is never refused. `grace`: from the end that was asked for to the
    planned one.
    """
    if before == after:
        return []
    return transfer(tx, accounts(tx, [*before, *after]), before, after, grace=grace)


def transfer(
    tx: Session, found: Sequence[Account], before: Spans, after: Spans, *, grace: timedelta = timedelta()
) -> list[str]:
    """As `move`, in these budgets only."""
    moves = [made for account in found for made in _moves(account, account.mine(before), account.mine(after))]
    _add_periods(tx, moves)
    warnings = []
    for made in moves:
        reached = _apply(tx, made)
        if reached is None:
            raise overdraft.refusal(tx, found, made.account, made.period, before, after, grace)
        warnings += _warn(tx, made, reached)
    return warnings


def accounts(tx: Session, spans: Iterable[Any]) -> list[Account]:
    """The budgets that count any of the spans, in the order of their keys."""
    owners = {(span.workspace_id, span.user_id) for span in spans}
    own, member = table(Workspace), table(Membership)
    theirs = sa.and_(
        member.c.workspace_id == own.c.id, member.c.user_id.in_({user for _, user in owners if user})
    )
    statement = (
        sa.select(BUDGETS, own.c.id.label("of"), own.c.slug, own.c.time_zone, member.c.user_id)
        .select_from(own.outerjoin(member, theirs))
        .join(BUDGETS, BUDGETS.c.scope_id.in_((own.c.id, own.c.organisation_id, member.c.id)))
        .where(own.c.id.in_({workspace for workspace, _ in owners}))
    )
    rows: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in tx.execute(statement):
        rows[str(row.scope_id), row.resource.value].append(row)
    found = [_account(rows[key]) for key in sorted(rows)]
    load_periods(tx, found)
    return found


def of(tx: Session, scoped: Scoped) -> list[Account]:
    """A scope's own budgets."""
    rows = tx.execute(sa.select(BUDGETS).where(BUDGETS.c.scope_id == scoped.id).order_by(BUDGETS.c.resource))
    found = [
        Account(
            scope=scoped.scope,
            scope_id=scoped.id,
            resource=row.resource,
            name=scoped.name,
            hard=row.hard_limit,
            soft=row.soft_limit,
            zone=scoped.zone,
            workspaces=scoped.workspaces,
            user_id=scoped.user_id,
        )
        for row in rows
    ]
    load_periods(tx, found)
    return found


def fill(tx: Session, account: Account, periods: Sequence[Period], spans: Spans) -> None:
    """New periods, with what the spans have promised and overrun of them, be it more than the limit."""
    mine = account.mine(spans)
    rows = [
        period_row(account, one, planned(mine, account.resource, one), overrun(mine, account.resource, one))
        for one in periods
    ]
    if rows:
        tx.execute(sa.insert(PERIODS), rows)


def _account(rows: list[Any]) -> Account:
    first, whole = rows[0], rows[0].scope is Scope.ORGANISATION
    return Account(
        scope=first.scope,
        scope_id=first.scope_id,
        resource=first.resource,
        name=first.slug,
        hard=first.hard_limit,
        soft=first.soft_limit,
        zone=ORGANISATIONS_ZONE if whole else first.time_zone,
        workspaces=frozenset(row.of for row in rows),
        user_id=first.user_id if first.scope is Scope.MEMBER else None,
    )


def load_periods(tx: Session, found: Iterable[Account]) -> None:
    by_key = {account.key: account for account in found}
    if not by_key:
        return
    ids = {account.scope_id for account in by_key.values()}
    statement = sa.select(PERIODS).where(PERIODS.c.scope_id.in_(ids)).order_by(PERIODS.c.period_start)
    for row in tx.execute(statement):
        known = by_key.get((str(row.scope_id), row.resource.value))
        if known is not None:
            period = Period(row.period_start, row.period_end)
            known.periods[period], known.late[period] = row.committed, row.overrun


def _moves(account: Account, before: Spans, after: Spans) -> list[Move]:
    """In the order of the periods. A time before the first period of a budget counts nowhere."""
    if before == after:
        return []
    if account.resource is Spent.MONEY and unpriced_seconds(after) > unpriced_seconds(before):
        raise NoRate(account.name)
    last = max(span.late or span.end for span in (*before, *after))
    found = []
    for period in cover(list(account.periods), account.zone, last):
        committed = planned(after, account.resource, period) - planned(before, account.resource, period)
        late = overrun(after, account.resource, period) - overrun(before, account.resource, period)
        if committed or late or period not in account.periods:
            found.append(Move(account, period, committed, late))
    return found


def _add_periods(tx: Session, moves: Sequence[Move]) -> None:
    rows = [
        period_row(made.account, made.period) for made in moves if made.period not in made.account.periods
    ]
    if rows:
        insert = sqlite.insert if is_sqlite(tx) else postgresql.insert
        tx.execute(insert(PERIODS).on_conflict_do_nothing(), rows)


def period_row(
    account: Account, period: Period, committed: Decimal = Decimal(0), late: Decimal = Decimal(0)
) -> dict[str, Any]:
    return {
        "scope_id": account.scope_id,
        "resource": account.resource,
        "period_start": period.start,
        "period_end": period.end,
        "committed": committed,
        "overrun": late,
    }


def _apply(tx: Session, made: Move) -> Decimal | None:
    """What is committed then; None where a rise does not fit. The database decides, whoever else moves it."""
    if not made.committed and not made.overrun:
        return Decimal(0)
    row = sa.and_(
        PERIODS.c.scope_id == made.account.scope_id,
        PERIODS.c.resource == made.account.resource,
        PERIODS.c.period_start == made.period.start,
    )
    if made.committed > 0 and made.account.hard is not None:
        row = sa.and_(row, PERIODS.c.committed + made.committed <= made.account.hard)
    statement = (
        sa.update(PERIODS)
        .where(row)
        .values(committed=PERIODS.c.committed + made.committed, overrun=PERIODS.c.overrun + made.overrun)
        .returning(PERIODS.c.committed)
    )
    return tx.execute(statement).scalar_one_or_none()


def _warn(tx: Session, made: Move, reached: Decimal) -> list[str]:
    """Whoever is beyond the soft limit is told at each claim, and once a period by a notice."""
    account = made.account
    if account.soft is None or made.committed <= 0 or reached <= account.soft:
        return []
    text = overdraft.beyond_soft(account, made.period, reached)
    notices.tell(
        tx,
        "budget.soft_limit_crossed",
        f"budget:{account.scope_id}:{account.resource}:{made.period.start.isoformat()}",
        account.scope_id,
        text,
        workspace_id=None if account.scope is Scope.ORGANISATION else next(iter(account.workspaces)),
        user_id=account.user_id,
        scope=account.scope,
        resource=account.resource,
        soft_limit=str(account.soft),
        committed=str(reached),
        period_start=made.period.start.isoformat(),
    )
    return [text]


def flag(tx: Session, workspace_ids: Iterable[UUID]) -> None:
    """Keep on the locked quota row whether a workspace is under any budget."""
    quota, own = table(Quota), table(Workspace)
    under = sa.exists().where(
        own.c.id == quota.c.scope_id,
        sa.or_(
            BUDGETS.c.scope_id == own.c.organisation_id,
            BUDGETS.c.workspace_id == own.c.id,
        ),
    )
    tx.execute(
        sa.update(quota)
        .where(
            quota.c.scope_id.in_(set(workspace_ids)),
            quota.c.resource == Resource.GPUS,
            quota.c.model == ALL_MODELS,
        )
        .values(budgeted=under)
    )
