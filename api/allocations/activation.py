"""Reservations whose time has come: they become holds."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import approvals, booking, claims, service, spending
from api.allocations.lifecycle import Event, State
from api.allocations.models import Allocation, Reservation
from api.allocations.window import Window
from api.core import clock, notices
from api.core.access import Actor
from api.core.db import table
from api.core.errors import Conflict
from api.fleet import windows
from api.settings import Settings
from api.workspaces.service import Tenant

RESERVATIONS = table(Reservation)


def due(tx: Session) -> list[UUID]:
    """Allocations whose reserved window has begun, the earliest first."""
    begun = col(Allocation.not_before) <= clock.now()
    statement = sa.select(col(Allocation.id)).where(col(Allocation.state) == State.RESERVED, begun)
    return list(tx.execute(statement.order_by(col(Allocation.not_before), col(Allocation.id))).scalars())


def activate(
    tx: Session, actor: Actor, allocation_id: UUID, settings: Settings, *, quietly: bool = False
) -> bool:
    """Hold what was reserved, or GPUs like it; False when that is not possible, now or any more.

    What cannot be had stays reserved, with the reason in `why`; its workspace is told once, unless `quietly`.
    It is tried again until the window's end.
    """
    tenant, allocation = approvals.lock(tx, actor, allocation_id)
    now = clock.now()
    if allocation.state is not State.RESERVED or service.begun(allocation.not_before) > now:
        return False
    if service.begun(allocation.expires_at) <= now:
        _give_up(tx, actor, allocation)
        return False
    attempt = tx.begin_nested()
    try:
        _begin(tx, actor, tenant, allocation, now, settings)
    except Conflict as short:
        attempt.rollback()
        if not quietly:
            _late(tx, allocation, short)
        return False
    attempt.commit()
    return True


def _begin(
    tx: Session, actor: Actor, tenant: Tenant, allocation: Allocation, now: datetime, settings: Settings
) -> None:
    """Raises QuotaExceeded, CapacityExceeded, and BudgetExceeded where other GPUs cost more."""
    with spending.tracked(tx, tenant, allocation):
        gpu_ids, free_at = _close(tx, allocation.id, now)
        span = Window(now, service.begun(allocation.expires_at), service.begun(allocation.ends_at), free_at)
        claims.grant(tx, actor, tenant, allocation, span, settings, reserved=gpu_ids)


def _close(tx: Session, allocation_id: UUID, now: datetime) -> tuple[list[UUID], datetime]:
    """Close its reservations; which GPUs they were of, and until when."""
    own = booking.open_of(allocation_id)
    windows.lock_hosts_of(tx, list(tx.execute(sa.select(RESERVATIONS.c.gpu_id).where(own)).scalars()))
    rows = tx.execute(
        sa.update(RESERVATIONS)
        .where(own)
        .values(closed_at=now)
        .returning(RESERVATIONS.c.gpu_id, RESERVATIONS.c.free_at)
    ).all()
    return sorted(row.gpu_id for row in rows), max(row.free_at for row in rows)


def _late(tx: Session, allocation: Allocation, short: Conflict) -> None:
    why = {**(allocation.why or {}), "late": {"code": short.code, "detail": short.detail}}
    if allocation.why != why:
        allocation.why = why
    notices.tell(
        tx,
        "allocation.late",
        f"allocation.late:{allocation.id}",
        allocation.id,
        f"Allocation {allocation.id} should have begun at {service.begun(allocation.not_before).isoformat()} "
        f"and waits: {short.detail} It is tried again until its end.",
        workspace_id=allocation.workspace_id,
        user_id=allocation.requested_by_id,
        code=short.code,
    )


def _give_up(tx: Session, actor: Actor, allocation: Allocation) -> None:
    reason = "Its window was over before its GPUs could be had."
    service.withdraw(tx, actor, allocation, Event.EXPIRE, reason=reason)
    notices.tell(
        tx,
        "allocation.missed",
        f"allocation.missed:{allocation.id}",
        allocation.id,
        f"Allocation {allocation.id} never began. {reason}",
        workspace_id=allocation.workspace_id,
        user_id=allocation.requested_by_id,
    )
