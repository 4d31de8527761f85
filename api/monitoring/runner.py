"""A scan: read the ledger, measure with no transaction open, then keep what was found, one by one."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from api.core import clock
from api.core.access import Actor, system
from api.core.db import Database
from api.core.errors import Problem
from api.monitoring import actions, holds, idle, service, sightings, stuck, unexplained
from api.monitoring.lifecycle import State
from api.monitoring.models import Kind, ScanRead, Seen, Sighting, Subject, Unknown
from api.monitoring.prometheus import Prometheus
from api.monitoring.sightings import Kept
from api.monitoring.utilisation import Measured, measure
from api.settings import Settings

log = logging.getLogger("ironyard.leaks")
GONE = "It is no longer there."
ANNOUNCED = "As announced."


@dataclass(slots=True)
class Ledger:
    """What has to be known of the ledger before anything is measured, and what needs no measuring."""

    at: datetime
    held: list[idle.Held]
    free: list[unexplained.FreeGpu]
    unresolved: dict[Subject, UUID]
    seen: Seen = field(default_factory=Seen)


def scan(database: Database, settings: Settings, *, seconds: float | None = None) -> ScanRead:
    """Look for leaks of every kind and do what was announced, as the platform itself, whoever asks for it.

    `seconds`: after so long nothing more is measured; what was not stays as it was.
    """
    began, actor = time.monotonic(), system()
    ledger = database.run(partial(_read, settings=settings), reading=True)
    seen = _measure(ledger, settings, until=began + seconds if seconds is not None else None)
    changes = _keep(database, settings, actor, seen, ledger.at)
    changes[State.RESOLVED] += _resolve(database, actor, ledger, seen)
    left = database.run(service.unresolved, reading=True)
    return ScanRead(
        at=ledger.at,
        seconds=round(time.monotonic() - began, 3),
        opened=changes[State.OPEN],
        warned=changes[State.WARNED],
        acted=changes[State.ACTED],
        resolved=changes[State.RESOLVED],
        unresolved=len(left),
        unknown=_unknown(seen),
    )


def _read(tx: Session, settings: Settings) -> Ledger:
    now = clock.now()
    ledger = Ledger(now, idle.held(tx), unexplained.free(tx, settings, now), service.unresolved(tx))
    for found in (holds.look(tx, settings), stuck.look(tx, settings, now), unexplained.look(tx, settings)):
        ledger.seen.add(found)
    return ledger


def _measure(ledger: Ledger, settings: Settings, *, until: float | None) -> Seen:
    held = idle.measurable(ledger.held, settings.leak_window, ledger.at)
    free = unexplained.measurable(ledger.free)
    if settings.prometheus_url:
        with Prometheus(settings.prometheus_url) as prometheus:
            of_held = measure(prometheus, held, settings.leak_window, until=until)
            of_free = measure(prometheus, free, unexplained.window(settings), until=until)
    else:
        of_held = measure(None, held, settings.leak_window)
        of_free = measure(None, free, unexplained.window(settings))
    return _judge(ledger, of_held, of_free, settings)


def _judge(ledger: Ledger, of_held: Measured, of_free: Measured, settings: Settings) -> Seen:
    seen = Seen()
    seen.add(ledger.seen)
    seen.add(idle.judge(ledger.held, of_held, settings))
    seen.add(unexplained.judge(ledger.free, of_free, settings))
    return seen


def _keep(database: Database, settings: Settings, actor: Actor, seen: Seen, at: datetime) -> Counter[State]:
    changes: Counter[State] = Counter()
    for sighting in seen.sightings:
        see = partial(_see, actor=actor, sighting=sighting, settings=settings, at=at)
        kept = database.run(see)
        if kept is not None and kept.into is not None:
            changes[kept.into] += 1
        if kept is not None and kept.due:
            changes[State.ACTED] += _act(database, actor, kept.finding_id, sighting)
    return changes


def _see(tx: Session, actor: Actor, sighting: Sighting, settings: Settings, at: datetime) -> Kept | None:
    if sighting.kind is Kind.IDLE_GPU and not idle.still_held(tx, sighting.subject_id, sighting.gpus):
        return None  # what it holds has changed while it was measured
    return sightings.see(tx, actor, sighting, settings, at)


def _act(database: Database, actor: Actor, finding_id: UUID, sighting: Sighting) -> bool:
    """Do what was announced. What cannot be done leaves the finding as it is, with the reason."""
    try:
        return database.run(partial(_act_once, actor=actor, finding_id=finding_id, sighting=sighting))
    except Problem as problem:
        log.warning("%s of %s was not done: %s", sighting.action, sighting.subject, problem.detail)
        database.run(partial(service.not_acted, finding_id=finding_id, why=problem.detail))
        return False


def _act_once(tx: Session, actor: Actor, finding_id: UUID, sighting: Sighting) -> bool:
    finding = service.lock(tx, finding_id)
    if not sightings.run_out(finding) or finding.action is not sighting.action:
        return False
    actions.act(tx, actor, finding, ANNOUNCED, seen=sighting)
    return True


def _resolve(database: Database, actor: Actor, ledger: Ledger, seen: Seen) -> int:
    there = {sighting.about for sighting in seen.sightings} | seen.unknown.keys()
    number = 0
    for about, finding_id in ledger.unresolved.items():
        if about not in there:
            why = seen.gone.get(about, GONE)
            resolve = partial(
                service.resolve, actor=actor, finding_id=finding_id, since=ledger.at, reason=why
            )
            number += database.run(resolve)
    return number


def _unknown(seen: Seen) -> list[Unknown]:
    counted = Counter((kind, why) for (kind, _), why in seen.unknown.items())
    return [
        Unknown(kind=kind, reason=why, subjects=number) for (kind, why), number in sorted(counted.items())
    ]
