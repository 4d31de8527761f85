"""Everything in the ledger as one snapshot: read by SQL of its own, not by the code that is tried."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations.approval_models import AllocationChange
from api.allocations.models import Allocation, Hold, Reservation
from api.core.db import table
from api.fleet.models import Gpu, Host, HostPeriod
from api.workspaces.models import Budget, BudgetPeriod, Membership, Quota, Workspace


@dataclass
class Ledger:
    """Everything, as one snapshot reads it."""

    allocations: dict[UUID, Any]
    holds: list[Any]
    reservations: list[Any]
    gpus: dict[UUID, Any]
    hosts: dict[UUID, Any]
    periods: dict[UUID, list[Any]]
    quotas: list[Any]
    budgets: dict[tuple[UUID, str], Any]
    budget_periods: list[Any]
    members: dict[UUID, Any]
    workspaces: dict[UUID, Any]
    changes: list[Any]

    @property
    def open_holds(self) -> list[Any]:
        return [hold for hold in self.holds if hold.ended_at is None]


@dataclass
class Memory:
    """What the last step saw, for promises about change."""

    used: dict[tuple[UUID, str, str], int] = field(default_factory=dict)
    committed: dict[tuple[UUID, str, datetime], Decimal] = field(default_factory=dict)
    closed: dict[UUID, datetime] = field(default_factory=dict)
    accounts: set[tuple[UUID, str, str]] = field(default_factory=set)  # budgets with their time zone


def read(tx: Session) -> Ledger:
    def rows(model: Any) -> list[Any]:
        return list(tx.execute(sa.select(table(model))).all())

    periods: dict[UUID, list[Any]] = defaultdict(list)
    for row in rows(HostPeriod):
        periods[row.host_id].append(row)
    return Ledger(
        allocations={row.id: row for row in rows(Allocation)},
        holds=rows(Hold),
        reservations=rows(Reservation),
        gpus={row.id: row for row in rows(Gpu)},
        hosts={row.id: row for row in rows(Host)},
        periods=periods,
        quotas=rows(Quota),
        budgets={(row.scope_id, row.resource): row for row in rows(Budget)},
        budget_periods=rows(BudgetPeriod),
        members={row.id: row for row in rows(Membership)},
        workspaces={row.id: row for row in rows(Workspace)},
        changes=rows(AllocationChange),
    )
