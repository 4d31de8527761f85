"""Shapes of what is used, promised and to be expected."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel
from pydantic import Field as Member

from api.workspaces.limit_models import BudgetKind, QuotaRead
from api.workspaces.models import Scope


class MonthRead(BaseModel):
    """The present month of the scope's time zone. Amounts are GPU-hours, or money."""

    resource: BudgetKind
    currency: str | None = Member(description="of money")
    start: datetime
    end: datetime
    hard_limit: Decimal | None = Member(description="the budget, if there is one")
    soft_limit: Decimal | None
    used: Decimal = Member(description="up to now, as it is metered")
    committed: Decimal = Member(description="used, and promised until the planned ends, in this month")
    overrun: Decimal = Member(description="used after a planned end; not in `committed`")
    forecast: Decimal = Member(
        description="at the month's end: used, what is open, and the last 7 days' rate"
    )


class UsageRead(BaseModel):
    """Use against limits, now and in the present month."""

    scope: Scope
    name: str = Member(description="of the organisation or the workspace")
    time_zone: str
    at: datetime
    limits: list[QuotaRead]
    months: list[MonthRead]
