"""Looking at hosts over SSH, on a schedule.

Idle ones are compared with their record; on those that are held in part, what nobody holds is looked at.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import clock
from api.core.access import Actor
from api.core.errors import Invalid, WrongState
from api.core.operations import service as operations
from api.core.operations.lifecycle import OPEN
from api.core.operations.models import Operation
from api.fleet import groups, health
from api.fleet import service as fleet
from api.fleet.group_models import Action, GroupCreate, Selection
from api.fleet.lifecycle import Event, State
from api.fleet.models import Gpu, Host
from api.settings import Settings

WHY = "Looking for what nobody explains."


def due(tx: Session, settings: Settings) -> list[UUID]:
    """Hosts that nobody has looked at for the interval, no more than may be checked at once.

    An idle host was last proven clean when it became idle. One that is booked soon is left alone.
    """
    if settings.leak_look_interval <= 0:
        return []
    at_work = sa.select(sa.func.count()).where(
        col(Operation.kind).in_((fleet.VERIFY, fleet.HEALTH)), col(Operation.state).in_(OPEN)
    )
    room = settings.health_at_once - tx.execute(at_work).scalar_one()
    now = clock.now()
    before = now - timedelta(seconds=settings.leak_look_interval)
    soon = now + timedelta(seconds=settings.enroll_timeout)
    own = col(Gpu.host_id) == col(Host.id)
    booked = sa.exists().where(own, col(Gpu.booked_from) < soon)
    free = sa.exists().where(own, col(Gpu.held_by).is_(None), col(Gpu.removed_at).is_(None))
    seen = sa.func.coalesce(col(Host.health_tried_at), col(Host.state_since))
    busy = sa.select(col(Operation.subject_id)).where(col(Operation.state).in_(OPEN))
    statement = sa.select(col(Host.id)).where(
        sa.or_(
            sa.and_(col(Host.state) == State.IDLE, col(Host.state_since) < before, ~booked),
            sa.and_(col(Host.state) == State.ALLOCATED, seen < before, free),
        ),
        col(Host.id).not_in(busy),
    )
    return list(tx.execute(statement.order_by(col(Host.state_since)).limit(max(0, room))).scalars())


def look(tx: Session, actor: Actor, host_id: UUID) -> bool:
    """Begin to look at a host that was due a moment ago, if it may still be looked at."""
    try:
        with tx.begin_nested():
            return _begin(tx, actor, host_id)
    except (operations.OperationOpen, fleet.HostHeld, WrongState):  # somebody was faster
        return False


def _begin(tx: Session, actor: Actor, host_id: UUID) -> bool:
    state = fleet.get(tx, host_id).state
    if state is State.IDLE:
        fleet.request(tx, actor, host_id, Event.CHECK, fleet.VERIFY, reason=WHY)
    elif state is State.ALLOCATED:
        health.request(tx, actor, host_id, 0)
    return state in (State.IDLE, State.ALLOCATED)


def look_at_all(tx: Session, actor: Actor, settings: Settings) -> UUID | None:
    """Look at every idle host, some at a time: the group of these operations, None where no host is idle."""
    asked = GroupCreate(
        action=Action.VERIFY,
        hosts=Selection(state=State.IDLE),
        at_once=settings.health_at_once,
        max_failures=1000,
        reason=WHY,
    )
    try:
        return groups.create(tx, actor, asked).id
    except Invalid:
        return None
