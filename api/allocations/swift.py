"""The common claim on PostgreSQL in one statement, which is its transaction too.

The function `ironyard_claim` (migration 0007) does what `claims.claim` does for one group of GPUs on any
hosts. It declines whatever is not that simple, having changed nothing, and `claims.claim` takes over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from api.allocations import claims, window
from api.allocations.lifecycle import State
from api.allocations.models import AllocationRead, ClaimRequest, HeldGpu, Placement
from api.core import clock
from api.core.access import Actor
from api.core.db import is_sqlite
from api.core.errors import Invalid
from api.core.ids import new_id
from api.core.retries import OutcomeUnknown
from api.settings import Settings

MOST = 64  # GPUs; more are rare, and not what a round trip is saved for
TOO_FEW = "IY001"
ARGUMENTS = 23
STATEMENT = f"SELECT ironyard_claim({', '.join(['%s'] * ARGUMENTS)})"
AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}


def simple(asked: ClaimRequest) -> bool:
    """Whether the function knows how to do it: GPUs of any hosts, now, filtered by their own columns."""
    return not (
        asked.groups
        or asked.labels
        or asked.same_host
        or asked.nvlink
        or asked.exclusive_host
        or asked.mig_profile
        or asked.not_before
        or asked.offer
        or asked.wait
        or asked.priority > 0
        or asked.placement is not Placement.PACK
        or asked.gpus > MOST
    )


def claim(tx: Session, actor: Actor, asked: ClaimRequest, settings: Settings) -> AllocationRead | None:
    """The allocation; None when nothing was done and `claims.claim` is to be asked.

    It is committed; in a transaction that has begun already (with an Idempotency-Key) it is part of that.
    Raises OutcomeUnknown when the database went away before it had answered.
    """
    if is_sqlite(tx) or not simple(asked):
        return None
    now = clock.now()
    try:
        span = window.of(asked, now, settings)
    except Invalid:
        return None  # the long way says so, to those who may claim there
    allocation_id = new_id()
    wanted = claims.describe(asked)
    by_id = _as_uuid(asked.workspace)
    arguments = (
        allocation_id,
        by_id,
        asked.workspace,
        actor.user_id,
        actor.name,
        actor.operates,
        asked.gpus,
        asked.model,
        asked.memory_mib,
        asked.region,
        now,
        span.expires_at,
        span.ends_at,
        span.free_at,
        asked.duration_seconds or (None if asked.expires_at else settings.allocation_lifetime),
        Jsonb(wanted),
        asked.priority,
        asked.preemptible,
        settings.currency,
        [new_id() for _ in range(3 * asked.gpus + 1)],
        actor.key_id,
        actor.address,
        actor.request_id,
    )
    made = _execute(tx, arguments)
    if made is None:
        return None
    return AllocationRead(
        id=allocation_id,
        workspace_id=made["workspace_id"],
        workspace=made["workspace"],
        requested_by=actor.name,
        state=State.ACTIVE,
        wanted=wanted,
        why=made["why"],
        reason=None,
        gpus=[_held(gpu) for gpu in made["gpus"]],
        priority=asked.priority,
        preemptible=asked.preemptible,
        preempt_at=None,
        price_per_hour=Decimal(made["price"]) if made["price"] else None,
        currency=settings.currency if made["price"] else None,
        created_at=now,
        not_before=None,
        started_at=max(now, datetime.fromisoformat(made["started_at"]).astimezone(UTC)),
        expires_at=span.expires_at,
        ends_at=span.ends_at,
        ended_at=None,
    )


def _execute(tx: Session, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
    if tx.in_transaction():
        return _within(tx, arguments)
    engine = tx.get_bind()
    assert isinstance(engine, sa.Engine)
    with engine.connect().execution_options(**AUTOCOMMIT) as connection:
        try:
            return _call(connection, arguments)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise OutcomeUnknown(
                    "The database went away before it had answered: the claim may or may not have been made. "
                    "Look at your allocations, or claim with an Idempotency-Key, which makes a retry safe."
                ) from error
            _check_declined(error)
            return None


def _within(tx: Session, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
    savepoint = tx.begin_nested()
    try:
        made = _call(tx.connection(), arguments)
    except DBAPIError as error:
        savepoint.rollback()
        _check_declined(error)
        return None
    savepoint.commit()
    return made


def _call(connection: sa.Connection, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
    made: dict[str, Any] | None = connection.exec_driver_sql(STATEMENT, arguments).scalar_one()
    return made


def _check_declined(error: DBAPIError) -> None:
    """Too few are free, or a quota of one model is used up: the long way says which. Raises any other."""
    if not isinstance(error, IntegrityError) and getattr(error.orig, "sqlstate", None) != TOO_FEW:
        raise error


def _held(gpu: dict[str, Any]) -> HeldGpu:
    return HeldGpu(
        gpu_id=gpu["id"],
        uuid=gpu["uuid"],
        model=gpu["model"],
        memory_mib=gpu["memory_mib"],
        index=gpu["index"],
        host_id=gpu["host_id"],
        host=gpu["host"],
    )


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
