"""Use cases of the fleet: register hosts, move them through their lifecycle, take and give back GPUs."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock
from api.core.access import Actor
from api.core.crypto import SecretBox
from api.core.db import table
from api.core.errors import Conflict, Exists, NotFound
from api.core.ids import new_id
from api.core.operations import service as operations
from api.core.operations import syncs
from api.core.operations.lifecycle import OPEN
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.models import Operation
from api.core.texts import gpus, storable
from api.fleet.lifecycle import LENDABLE, Event, State, advance
from api.fleet.models import Gpu, Health, Host, HostPeriod
from api.fleet.requests import HostCreate

ENROLL, RECLAIM, VERIFY, RETIRE = "host.enroll", "host.reclaim", "host.verify", "host.retire"
HEALTH = "host.health"
PAST = {
    Event.ENROLL: "enroll_started",
    Event.ENROLLED: "enrolled",
    Event.CHECK: "check_started",
    Event.CLAIM: "claimed",
    Event.RELEASE: "released",
    Event.RECLAIM: "reclaim_requested",
    Event.VERIFIED: "verified",
    Event.FAILED: "failed",
    Event.MAINTAIN: "put_in_maintenance",
    Event.RETIRE: "retired",
}
# What an event sets in motion. An event that an operation itself begins with is not listed.
FOLLOWS = {Event.ENROLLED: RECLAIM, Event.RELEASE: RECLAIM}


class HostHeld(Conflict):
    code, title = "host-not-idle", "The host is lent out"


def lock(tx: Session, host_id: UUID) -> Host:
    """The host, locked, and then its GPUs: nobody who has a GPU waits for its host.

    Their keys are left alone: whoever writes a hold, and so refers to them, does not wait.
    """
    host = tx.execute(
        sa.select(Host)
        .where(col(Host.id) == host_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).scalar_one_or_none()
    if host is None:
        raise NotFound(f"There is no host {host_id}.")
    own = sa.select(col(Gpu.id)).where(col(Gpu.host_id) == host_id).order_by(col(Gpu.id))
    tx.execute(own.with_for_update(key_share=True))
    return host


def fire(
    tx: Session,
    actor: Actor,
    host_id: UUID,
    event: Event,
    *,
    reason: str | None = None,
    step: str | None = None,
    at: datetime | None = None,
) -> Host:
    """The one door of the lifecycle: lock, advance, keep history, audit, enqueue what follows."""
    host, reason = lock(tx, host_id), storable(reason)
    before, after = host.state, advance(host.state, event)
    # A clock may step back; a host's history must not.
    host.state, host.state_since = after, max(clock.now(), host.state_since, at or host.state_since)
    host.failed_step = step if after is State.MAINTENANCE else None
    host.failed_reason = reason if after is State.MAINTENANCE else None
    tx.flush()
    keep_period(tx, host.id, after, host.state_since)
    reschedule(tx, host)
    if after is State.RETIRED:
        _remove_gpus(tx, host)
        syncs.changed(tx, actor)
    audit_event(tx, actor, host.id, event, before=before, after=after, reason=reason, step=step)
    if event in FOLLOWS:
        start(tx, actor, host, FOLLOWS[event])
    return host


def start(tx: Session, actor: Actor, host: Host, kind: str, **arguments: Any) -> Operation:
    operation = operations.create(tx, actor, kind, subject_id=host.id, subject=host.name, arguments=arguments)
    operations.dispatch(tx, operation)
    return operation


def register(tx: Session, actor: Actor, asked: HostCreate, box: SecretBox) -> Host:
    _refuse_twins(tx, asked)
    host = Host(
        name=asked.name,
        address=asked.address,
        port=asked.port,
        ssh_user=asked.ssh_user,
        key_reference=asked.key_reference,
        sealed_key=box.seal(asked.key.get_secret_value()) if asked.key else None,
        host_keys=list(asked.host_keys),
        region=asked.region,
        labels=dict(asked.labels),
    )
    tx.add(host)
    tx.flush()
    keep_period(tx, host.id, host.state, host.state_since)
    after = {"name": host.name, "address": host.address, "port": host.port, "region": host.region}
    audit.record(tx, actor, "host.registered", host.id, after=after)
    return host


def _refuse_twins(tx: Session, asked: HostCreate) -> None:
    same = sa.or_(
        col(Host.name) == asked.name,
        sa.and_(col(Host.address) == asked.address, col(Host.port) == asked.port),
    )
    twin = tx.execute(sa.select(Host).where(col(Host.state) != State.RETIRED, same)).scalars().first()
    if twin is not None:
        raise Exists(
            f"Host {twin.name} ({twin.address}:{twin.port}) is enrolled already.", host_id=str(twin.id)
        )


def request(
    tx: Session,
    actor: Actor,
    host_id: UUID,
    event: Event,
    kind: str,
    *,
    reason: str | None = None,
    **arguments: Any,
) -> Operation:
    """Move a host nobody holds and enqueue the playbook that belongs to it."""
    end_checks(tx, actor, host_id, reason=kind)
    refuse_held(tx, lock(tx, host_id))
    host = fire(tx, actor, host_id, event, reason=reason)
    return start(tx, actor, host, kind, **arguments)


def end_checks(tx: Session, actor: Actor, host_id: UUID, *, reason: str) -> None:
    """Call off a health check that is at work there: nothing waits for one. Its run stops by itself.

    To be done before the host is locked, since a worker that ends a check locks that first and then the host.
    """
    check = tx.execute(
        sa.select(Operation)
        .where(
            col(Operation.subject_id) == host_id,
            col(Operation.kind) == HEALTH,
            col(Operation.state).in_(OPEN),
        )
        .with_for_update()
    ).scalar_one_or_none()
    if check is not None:
        event = OperationEvent.CANCEL
        operations.finish(tx, actor, check, event, reason=f"Called off: {reason} goes first.")
        tx.flush()


def refuse_held(tx: Session, host: Host) -> None:
    held = held_gpus(tx, host.id)
    if held:
        them = "is held; release its allocation" if held == 1 else "are held; release their allocations"
        raise HostHeld(
            f"{gpus(held)} of {host.name} {them} first.",
            host_id=str(host.id),
            gpus_held=held,
        )


def gpu_uuids(tx: Session, host_id: UUID) -> frozenset[str]:
    own = sa.select(col(Gpu.uuid)).where(col(Gpu.host_id) == host_id, col(Gpu.removed_at).is_(None))
    return frozenset(tx.execute(own).scalars())


def held_gpus(tx: Session, host_id: UUID) -> int:
    return tx.execute(
        sa.select(sa.func.count()).where(col(Gpu.host_id) == host_id, col(Gpu.held_by).is_not(None))
    ).scalar_one()


def maintain(tx: Session, actor: Actor, host_id: UUID, reason: str | None) -> Host:
    refuse_held(tx, lock(tx, host_id))
    return fire(tx, actor, host_id, Event.MAINTAIN, reason=reason or "Taken out by an operator.")


def cordon(tx: Session, actor: Actor, host_id: UUID, *, cordoned: bool, reason: str | None) -> Host:
    host = lock(tx, host_id)
    if not cordoned:
        host.drains_to = None
    if host.cordoned != cordoned:
        host.cordoned = cordoned
        tx.flush()
        reschedule(tx, host)
        audit.record(tx, actor, "host.cordoned" if cordoned else "host.uncordoned", host.id, reason=reason)
    return host


def get(tx: Session, host_id: UUID) -> Host:
    host = tx.get(Host, host_id)
    if host is None:
        raise NotFound(f"There is no host {host_id}.")
    return host


def keep_period(tx: Session, host_id: UUID, state: State, since: datetime) -> None:
    """End the host's stay in one state and begin the next at the same moment."""
    periods = table(HostPeriod)
    tx.execute(
        sa.update(periods)
        .where(periods.c.host_id == host_id, periods.c.ended_at.is_(None))
        .values(ended_at=since)
    )
    tx.execute(sa.insert(periods).values(id=new_id(), host_id=host_id, state=state, started_at=since))


def audit_event(
    tx: Session,
    actor: Actor,
    host_id: UUID,
    event: Event,
    *,
    before: State,
    after: State,
    reason: str | None = None,
    step: str | None = None,
) -> None:
    audit.record(
        tx,
        actor,
        f"host.{PAST[event]}",
        host_id,
        before={"state": before},
        after={"state": after} | ({"step": step} if step else {}),
        reason=reason,
    )


def reschedule(tx: Session, host: Host) -> None:
    """Which of its GPUs may be lent: of a host that may be, those that are well."""
    may = host.state in LENDABLE and not host.cordoned and host.health_current
    healthy = sa.and_(col(Gpu.health) == Health.OK, col(Gpu.removed_at).is_(None))
    tx.execute(
        sa.update(table(Gpu))
        .where(col(Gpu.host_id) == host.id)
        .values(schedulable=healthy if may else sa.false(), host_lent=host.state is State.ALLOCATED)
    )


def _remove_gpus(tx: Session, host: Host) -> None:
    tx.execute(
        sa.update(table(Gpu))
        .where(col(Gpu.host_id) == host.id, col(Gpu.removed_at).is_(None))
        .values(removed_at=host.state_since)
    )
