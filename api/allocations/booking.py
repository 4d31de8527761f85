"""Reservations: GPUs set aside for a window that has not begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations import usage
from api.allocations.lifecycle import Event, State, advance
from api.allocations.limits import check_quota
from api.allocations.models import Allocation, Placement, Reservation
from api.allocations.window import Window
from api.core import audit, clock
from api.core.access import Actor
from api.core.db import table
from api.core.errors import Conflict
from api.core.ids import new_id
from api.fleet import placement, windows
from api.fleet.placement import CapacityExceeded, Taken, Wanted
from api.providers import rates
from api.settings import Settings
from api.workspaces.models import ALL_MODELS
from api.workspaces.service import Tenant

RESERVATIONS = table(Reservation)
BECAUSE = "it can be expected to be free for all of the window"


class ReservationConflict(Conflict):
    code, title = "reservation-conflict", "GPUs are reserved at that time"


def reserve(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    span: Window,
    groups: Sequence[Wanted],
    settings: Settings,
) -> list[Taken]:
    """Set GPUs aside for a later window, for a new allocation or an approved one. The tenant is locked.

    Raises QuotaExceeded, ReservationConflict, CapacityExceeded.
    """
    then = usage.later(tx, tenant, allocation.requested_by_id, span, allocation.id)
    check_quota(then, Counter({ALL_MODELS: sum(group.count for group in groups)}), later=True)
    chosen = _choose(tx, allocation, span, groups)
    asked = Counter(gpu.model for gpu in chosen) + Counter({ALL_MODELS: len(chosen)})
    check_quota(then, asked, later=True)
    before = _begin(tx, allocation, span, chosen)
    known = rates.in_force(tx, clock.now())
    prices = [rates.price(known, gpu.model, gpu.region) for gpu in chosen]
    told = [price for price in prices if price is not None]
    if told:
        allocation.price_per_hour, allocation.currency = sum(told, Decimal(0)), settings.currency
    tx.flush()
    rows = [_row(allocation, gpu, rate, span) for gpu, rate in zip(chosen, prices, strict=True)]
    tx.execute(sa.insert(RESERVATIONS), sorted(rows, key=lambda row: row["gpu_id"]))
    after = {
        "workspace": tenant.slug,
        "gpus": [gpu.uuid for gpu in chosen],
        "from": span.starts_at.isoformat(),
    }
    audit.record(tx, actor, "allocation.reserved", allocation.id, before=before, after=after)
    return chosen


def _choose(tx: Session, allocation: Allocation, span: Window, groups: Sequence[Wanted]) -> list[Taken]:
    """GPUs that nobody else can hold or reserve before the transaction has ended."""
    try:
        return placement.choose(
            tx,
            groups,
            span.starts_at,
            span.free_at,
            spread=allocation.wanted.get("placement") == Placement.SPREAD,
            separate=bool(allocation.wanted.get("separate_hosts")),
        )
    except CapacityExceeded as short:
        facts = short.facts
        if facts["reserved"] and facts["asked"]["gpus"] <= facts["free"] + facts["reserved"]:
            raise ReservationConflict(short.detail, **facts) from None
        raise


def _begin(
    tx: Session, allocation: Allocation, span: Window, chosen: Sequence[Taken]
) -> dict[str, Any] | None:
    """Make it reserved; what its state was before, where it had one."""
    before = None
    if sa.inspect(allocation).persistent:
        before = {"state": allocation.state}
        advance(allocation.state, Event.RESERVE)
    allocation.state, allocation.not_before = State.RESERVED, span.starts_at
    allocation.expires_at, allocation.ends_at = span.expires_at, span.ends_at
    on = Counter(gpu.host for gpu in chosen)
    hosts = [{"host": host, "gpus": gpus, "because": BECAUSE} for host, gpus in sorted(on.items())]
    allocation.why = {"policy": allocation.wanted.get("placement", Placement.PACK), "hosts": hosts}
    tx.add(allocation)
    return before


def _row(allocation: Allocation, gpu: Taken, rate: Decimal | None, span: Window) -> dict[str, Any]:
    return {
        "id": new_id(),
        "allocation_id": allocation.id,
        "workspace_id": allocation.workspace_id,
        "user_id": allocation.requested_by_id,
        "gpu_id": gpu.gpu_id,
        "host_id": gpu.host_id,
        "model": gpu.model,
        "rate": rate,
        "starts_at": span.starts_at,
        "ends_at": span.ends_at,
        "free_at": span.free_at,
    }


def open_of(allocation_id: UUID) -> sa.ColumnElement[bool]:
    own = RESERVATIONS.c
    return sa.and_(own.allocation_id == allocation_id, own.closed_at.is_(None))


def move_end(tx: Session, tenant: Tenant, allocation: Allocation, span: Window) -> list[UUID]:
    """Give a locked allocation whose window has not begun another end, for the same GPUs (returned) or none.

    Raises QuotaExceeded, ReservationConflict.
    """
    mine = open_of(allocation.id)
    rows = [dict(row) for row in tx.execute(sa.select(RESERVATIONS).where(mine)).mappings()]
    rows.sort(key=lambda row: row["gpu_id"])
    then = usage.later(tx, tenant, allocation.requested_by_id, span, allocation.id)
    asked = Counter(row["model"] for row in rows) + Counter({ALL_MODELS: len(rows)})
    check_quota(then, asked, later=True)
    gpu_ids = [row["gpu_id"] for row in rows]
    windows.lock(tx, gpu_ids)
    refuse_reserved(tx, gpu_ids, allocation.id, span)
    tx.execute(sa.update(RESERVATIONS).where(mine).values(closed_at=clock.now()))
    moved = {"ends_at": span.ends_at, "free_at": span.free_at}
    tx.execute(sa.insert(RESERVATIONS), [row | moved | {"id": new_id()} for row in rows])
    return gpu_ids


def refuse_reserved(tx: Session, gpu_ids: Sequence[UUID], besides: UUID, span: Window) -> None:
    """Raises ReservationConflict when somebody else has reserved one of the locked GPUs in that window."""
    own = RESERVATIONS.c
    in_it = sa.and_(own.closed_at.is_(None), own.starts_at < span.free_at, own.free_at > span.starts_at)
    first = tx.execute(
        sa.select(own.gpu_id, own.starts_at)
        .where(own.gpu_id.in_(gpu_ids), own.allocation_id != besides, in_it)
        .order_by(own.starts_at, own.gpu_id)
        .limit(1)
    ).first()
    if first is None:
        return
    latest = first.starts_at - (span.free_at - span.expires_at)
    raise ReservationConflict(
        f"{windows.name(tx, first.gpu_id)} is reserved from {_text(first.starts_at)} on. With the grace and "
        f"the clean before that, this may end at {_text(latest)} at the latest.",
        gpu_id=str(first.gpu_id),
        reserved_from=first.starts_at.isoformat(),
        latest=latest.isoformat(),
    )


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
