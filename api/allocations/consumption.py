"""What a scope uses, has promised, and will probably have used at the end of its month."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy.orm import Session

from api.allocations import spending
from api.allocations.budgeting import KINDS, MOMENT, shown, told
from api.allocations.consumption_models import MonthRead, UsageRead
from api.core import clock
from api.workspaces import budgets, quotas
from api.workspaces.budgets import Account
from api.workspaces.models import Spent
from api.workspaces.periods import Period, cover, month_of
from api.workspaces.scopes import Scoped
from api.workspaces.spans import MILLIONTH, Spans, metered, outlook, overrun, planned

LOOK_BACK = timedelta(days=7)
LEAST = timedelta(days=1)


def usage(tx: Session, scoped: Scoped, currency: str) -> UsageRead:
    """Limits and use at this moment, and of the present month.

    forecast = used + max(open, run rate x time left): used up to now, as metered; open: of what is held or
    reserved now, from now to its planned end or the month's; run rate: use over the last 7 days (since the
    scope was created, if that is less; at least a day), divided by that time; time left: to the month's end.
    """
    now = clock.now()
    accounts = {account.resource: account for account in budgets.of(tx, scoped)}
    periods = {resource: _present(accounts.get(resource), scoped.zone, now) for resource in Spent}
    start = min(now - LOOK_BACK, *(period.start for period in periods.values()))
    spans = spending.between(tx, scoped.workspaces, scoped.user_id, start)
    return UsageRead(
        scope=scoped.scope,
        name=scoped.name,
        time_zone=scoped.zone,
        at=now,
        limits=[quotas.read(row) for row in quotas.of(tx, scoped)],
        months=[
            _month(scoped, spans, resource, accounts.get(resource), periods[resource], currency, now)
            for resource in Spent
        ],
    )


def _present(account: Account | None, zone: str, now: datetime) -> Period:
    """The stored period, or the one that would follow the stored ones; a month where there is no budget."""
    if account is None:
        return month_of(now, zone)
    known = cover(list(account.periods), zone, now + MOMENT)
    return next(period for period in known if period.start <= now < period.end)


def _month(
    scoped: Scoped,
    spans: Spans,
    resource: Spent,
    account: Account | None,
    period: Period,
    currency: str,
    now: datetime,
) -> MonthRead:
    used = metered(spans, resource, Period(period.start, now))
    return MonthRead(
        resource=KINDS[resource],
        currency=currency if resource is Spent.MONEY else None,
        start=period.start,
        end=period.end,
        hard_limit=shown(resource, account.hard) if account else None,
        soft_limit=shown(resource, account.soft) if account else None,
        used=told(resource, used),
        committed=told(resource, planned(spans, resource, period)),
        overrun=told(resource, overrun(spans, resource, period)),
        forecast=told(resource, used + _rest(scoped, spans, resource, period, now)),
    )


def _rest(scoped: Scoped, spans: Spans, resource: Spent, period: Period, now: datetime) -> Decimal:
    """What is still to come in the period."""
    begin = max(now - LOOK_BACK, min(scoped.since, now - LEAST))
    lately = metered(spans, resource, Period(begin, now))
    rate = lately / Decimal(int((now - begin).total_seconds()))
    left = Decimal(int((period.end - now).total_seconds()))
    return max(outlook(spans, resource, Period(now, period.end)), (rate * left).quantize(MILLIONTH))
