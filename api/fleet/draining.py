"""Draining: a host takes no new claims, and leaves once nobody holds it and it is clean."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from api.core import audit
from api.core.access import Actor
from api.fleet import service
from api.fleet.lifecycle import Event, State
from api.fleet.models import DrainsTo, Host

WHY = "Drained."


def drain(tx: Session, actor: Actor, host_id: UUID, to: DrainsTo, reason: str | None) -> Host:
    """Cordon it and remember where it goes; a host that nobody holds goes at once."""
    host = service.cordon(tx, actor, host_id, cordoned=True, reason=reason)
    host.drains_to = to
    audit.record(tx, actor, "host.drain_requested", host.id, after={"to": to}, reason=reason)
    tx.flush()
    if host.state in (State.NEW, State.MAINTENANCE):
        _leave(tx, actor, host)
    else:
        settle(tx, actor, host_id)
    return service.get(tx, host_id)


def settle(tx: Session, actor: Actor, host_id: UUID) -> None:
    """Let a draining host leave when it is idle. Call it where a clean ends."""
    host = service.lock(tx, host_id)
    if host.drains_to is not None and host.state is State.IDLE:
        _leave(tx, actor, host)


def _leave(tx: Session, actor: Actor, host: Host) -> None:
    to, host.drains_to = host.drains_to, None
    tx.flush()
    if to is DrainsTo.RETIRED:
        service.request(tx, actor, host.id, Event.RETIRE, service.RETIRE, reason=WHY)
    elif host.state is not State.MAINTENANCE:
        service.maintain(tx, actor, host.id, WHY)
