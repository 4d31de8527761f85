"""What is said when a budget does not reach, and what would still fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from api.core.db import table
from api.core.errors import Conflict
from api.workspaces.models import BudgetPeriod, Scope, Spent
from api.workspaces.periods import Period, cover
from api.workspaces.spans import HOUR, Span, Spans, planned

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from api.workspaces.budgets import Account


class NoRate(Conflict):
    code, title = "no-rate", "There is no price for these GPUs, and a budget of money counts them"

    def __init__(self, workspace: str) -> None:
        super().__init__(
            f"{workspace} has a budget of money, and not every one of these GPUs has a price. Ask for a "
            "model that `GET /api/v1/rates` names, or ask an administrator to set a rate.",
            workspace=workspace,
        )


class BudgetExceeded(Conflict):
    """`limit`, `committed` and `asked` are GPU-seconds or money; `asked` is the part in that period.

    `latest_end`: with the same GPUs it fits until then, `longest_seconds` after its begin; `most_gpus`: so
    many of them fit for the whole time. None: not even one.
    """

    code, title = "budget-exceeded", "A budget does not allow this"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail, **facts)


def refusal(
    tx: Session,
    accounts: Sequence[Account],
    account: Account,
    period: Period,
    before: Spans,
    after: Spans,
    grace: timedelta,
) -> BudgetExceeded:
    """Why `account` cannot bear the change in `period`, and what all of the budgets could."""
    committed = _committed(tx, account, period)
    asked = planned(account.mine(after), account.resource, period) - planned(
        account.mine(before), account.resource, period
    )
    fits = _fitting(accounts, before)
    new = +(after - before)
    begins = min(span.start for span in new)
    end = _latest_end(fits, before & after, new)
    count = _most(fits, before & after, new) if not before - after else None  # nothing moved, only added
    latest = end - grace if end is not None and end - grace > begins else None
    facts = {
        "scope": account.scope,
        "workspace": account.name,
        "resource": account.resource,
        "period_start": period.start.isoformat(),
        "period_end": period.end.isoformat(),
        "limit": str(account.hard),
        "committed": str(committed),
        "asked": str(asked),
        "latest_end": latest.isoformat() if latest else None,
        "longest_seconds": int((latest - begins).total_seconds()) if latest else None,
        "most_gpus": count,
    }
    return BudgetExceeded(_sentence(account, period, committed, asked, latest, count), **facts)


def beyond_soft(account: Account, period: Period, committed: Decimal) -> str:
    return (
        f"{_budget(account, period)} has {amount(account.resource, committed)} promised, more than "
        f"its soft limit of {amount(account.resource, account.soft or Decimal(0))}."
    )


def amount(resource: Spent, value: Decimal) -> str:
    """In GPU-hours, or in the platform's currency."""
    return f"{value / HOUR if resource is Spent.GPU_SECONDS else value:.2f}"


def _budget(account: Account, period: Period) -> str:
    of = {
        Scope.ORGANISATION: f"the organisation of {account.name}",
        Scope.WORKSPACE: account.name,
        Scope.MEMBER: f"a member of {account.name}",
    }[account.scope]
    kind = "GPU-hours" if account.resource is Spent.GPU_SECONDS else "money"
    return f"The budget of {kind} of {of} from {_day(period.start)} to {_day(period.end)}"


def _sentence(
    account: Account,
    period: Period,
    committed: Decimal,
    asked: Decimal,
    latest: datetime | None,
    count: int | None,
) -> str:
    limit, promised, more = (
        amount(account.resource, value) for value in (account.hard or Decimal(0), committed, asked)
    )
    said = f"{_budget(account, period)} is {limit}; {promised} are promised, and {more} more were asked for."
    if latest is not None:
        said += f" It would fit until {latest:%Y-%m-%dT%H:%M:%SZ}."
    if count:
        said += f" For the whole time {count} GPU{'s' if count > 1 else ''} would fit."
    return f"{said} Ask for less, or ask an administrator for more."


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%MZ}"


def _committed(tx: Session, account: Account, period: Period) -> Decimal:
    rows = table(BudgetPeriod)
    found = tx.execute(
        sa.select(rows.c.committed).where(
            rows.c.scope_id == account.scope_id,
            rows.c.resource == account.resource,
            rows.c.period_start == period.start,
        )
    ).scalar_one()
    return Decimal(found)


def _fitting(accounts: Sequence[Account], before: Spans) -> Callable[[Spans], bool]:
    """Whether the budgets, as they were before the change, could bear that instead of `before`."""

    def fits(spans: Spans) -> bool:
        return all(_room(account, spans, before) for account in accounts if account.hard is not None)

    return fits


def _room(account: Account, spans: Spans, before: Spans) -> bool:
    asked, had = account.mine(spans), account.mine(before)
    ends = [span.end for span in asked]
    if not ends or account.hard is None:
        return True
    for period in cover(list(account.periods), account.zone, max(ends)):
        more = planned(asked, account.resource, period) - planned(had, account.resource, period)
        if more > 0 and account.periods.get(period, Decimal(0)) + more > account.hard:
            return False
    return True


def _latest_end(fits: Callable[[Spans], bool], kept: Spans, new: Spans) -> datetime | None:
    """The latest end, in whole seconds after the begin, with which all of it would fit."""
    begins, ends = min(span.start for span in new), max(span.end for span in new)

    def until(seconds: int) -> Spans:
        return kept + Spans(_cut(new, begins + timedelta(seconds=seconds)))

    most = _largest(int((ends - begins).total_seconds()), lambda seconds: fits(until(seconds)))
    return begins + timedelta(seconds=most) if most else None


def _cut(spans: Spans, end: datetime) -> Spans:
    cut = Spans()
    for span, n in spans.items():
        cut[span.until(end)] += n
    return cut


def _most(fits: Callable[[Spans], bool], kept: Spans, new: Spans) -> int | None:
    """How many of the GPUs, the cheapest first, would fit for the whole time."""
    ordered = sorted(_each(new), key=lambda span: span.rate or Decimal(0))
    return _largest(len(ordered) - 1, lambda count: fits(kept + Spans(ordered[:count]))) or None


def _each(spans: Spans) -> Iterator[Span]:
    return spans.elements()


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number of 0 to `most` that fits; 0 fits, and what is less than a fitting one fits."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
