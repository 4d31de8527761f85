"""Choosing free GPUs and taking them, all or nothing.

Locks are taken in one order everywhere: hosts by id, then GPUs by id. A claim that is in a hurry waits for
nobody: what others look at is left out. Only when that leaves too few it lets go of everything, chooses as if
nobody else were there, and locks what it chose, in that order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.access import Actor
from api.core.db import is_sqlite
from api.core.retries import Contended
from api.fleet import fit, mig, seizing, service, shortage
from api.fleet.lifecycle import Event, State
from api.fleet.rooms import GPU, HOST, View
from api.fleet.shortage import enough_at
from api.fleet.wanted import CapacityExceeded, Moment, Taken, Wanted

__all__ = ["CapacityExceeded", "Taken", "Wanted", "choose", "enough_at", "give_back", "hold_until", "take"]

HASTY, MOST = 3, 50  # attempts that wait for nobody, and all together


def take(
    tx: Session,
    actor: Actor,
    groups: Sequence[Wanted],
    holder: UUID,
    at: datetime,
    *,
    until: datetime,
    spread: bool = False,
    separate: bool = False,
) -> tuple[list[Taken], datetime, dict[str, Any]]:
    """Mark free GPUs as held by `holder` until `until`; also the moment from which they are, and why these.

    That moment is `at` or a little later. `separate`: no two groups share a host.

    Raises CapacityExceeded, naming what is short of which group and when enough will be free.
    """
    view = View(tx, Moment(until), hasty=not is_sqlite(tx))
    for attempt in range(MOST):
        view.hasty = view.hasty and attempt < HASTY
        attempted = tx.begin_nested()
        try:
            picks = fit.plan(view, groups, spread=spread, separate=separate)
        except fit.TooFew as lack:
            attempted.rollback()
            if not view.hasty or _blind(view, groups, spread=spread):
                raise shortage.told(view, groups, lack.group, at, separate=separate) from None
            _patient(view)
            continue
        rows = seizing.seize(view, actor, picks, holder, at)
        if rows is not None:
            attempted.commit()
            return _given(groups, picks, rows, at, spread=spread)
        attempted.rollback()
        if not view.hasty:
            _patient(view)
    raise _contended()


def _blind(view: View, groups: Sequence[Wanted], *, spread: bool) -> bool:
    """Whether being hasty made no difference: whole hosts and spread ones are looked for without locks."""
    return not view.but_gpus and not view.but_hosts and all(group.together or spread for group in groups)


def _patient(view: View) -> None:
    view.hasty = False
    view.but_gpus.clear()
    view.but_hosts.clear()


def _contended() -> Contended:
    return Contended(
        f"GPUs were chosen {MOST} times and others were faster each time. Try again in a moment."
    )


def choose(
    tx: Session,
    groups: Sequence[Wanted],
    start: datetime,
    free_at: datetime,
    *,
    spread: bool = False,
    separate: bool = False,
) -> list[Taken]:
    """GPUs that nobody holds or has reserved in `[start, free_at)`, locked, for the groups in their order.

    Nothing is marked: whoever asks writes the reservations, in the same transaction. Raises CapacityExceeded.
    """
    view = View(tx, Moment(free_at, start))
    for _ in range(MOST):
        try:
            picks = fit.plan(view, groups, spread=spread, separate=separate)
        except fit.TooFew as lack:
            raise shortage.told(view, groups, lack.group, start, separate=separate) from None
        ids = [spot.id for pick in picks for spot in _sorted(pick)]
        attempted = tx.begin_nested()
        seizing.lock_gpus(tx, ids)
        if len(view.still_free(ids)) == len(ids):
            attempted.commit()
            return _looked_up(tx, ids)
        attempted.rollback()
    raise _contended()


def give_back(tx: Session, actor: Actor, holder: UUID, at: datetime, *, reason: str) -> None:
    """Free what `holder` holds; a host that nobody holds any more goes into reclaim."""
    held = tx.execute(sa.select(GPU.c.host_id).where(GPU.c.held_by == holder).distinct()).scalars()
    host_ids = sorted(held)
    for host_id in host_ids:
        service.end_checks(tx, actor, host_id, reason=reason)
    seizing.lock_hosts(tx, host_ids)
    freed = {"held_by": None, "held_until": None, "free_since": at}
    tx.execute(sa.update(GPU).where(GPU.c.held_by == holder).values(freed))
    for host_id, freed_at in _left_empty(tx, host_ids):
        service.fire(tx, actor, host_id, Event.RELEASE, reason=reason, at=max(at, freed_at))


def _left_empty(tx: Session, host_ids: Sequence[UUID]) -> list[tuple[UUID, datetime]]:
    """Those that nobody holds any more. From one that is out of service only a clean leads back anyway.

    Also the latest end of a hold there: after a clock has stepped back, that may not be the last one's.
    """
    held = sa.exists().where(GPU.c.host_id == HOST.c.id, GPU.c.held_by.is_not(None)).correlate(HOST)
    freed = sa.select(sa.func.max(GPU.c.free_since)).where(GPU.c.host_id == HOST.c.id).scalar_subquery()
    out = HOST.c.state.in_((State.MAINTENANCE, State.RETIRED))
    empty = sa.select(HOST.c.id, freed).where(HOST.c.id.in_(host_ids), ~held, ~out)
    return [(row[0], row[1]) for row in tx.execute(empty.order_by(HOST.c.id))]


def hold_until(tx: Session, holder: UUID, until: datetime) -> None:
    """Move the planned end of what `holder` holds; the database refuses one that runs into a reservation."""
    tx.execute(sa.update(GPU).where(GPU.c.held_by == holder).values(held_until=until))


def _given(
    groups: Sequence[Wanted], picks: Sequence[fit.Pick], rows: dict[UUID, Any], at: datetime, *, spread: bool
) -> tuple[list[Taken], datetime, dict[str, Any]]:
    """Clocks of several processes differ: a hold never begins before its GPU was free and its host lent."""
    began = max(at, *(max(row.host_since, row.free_since) for row in rows.values()))
    taken = [[_taken(rows[spot.id]) for spot in _sorted(pick)] for pick in picks]
    return [gpu for group in taken for gpu in group], began, _why(groups, picks, taken, spread=spread)


def _sorted(pick: fit.Pick) -> list[Any]:
    return sorted(pick.spots, key=lambda spot: (spot.host_id, spot.number))


def _why(
    groups: Sequence[Wanted], picks: Sequence[fit.Pick], taken: Sequence[Sequence[Taken]], *, spread: bool
) -> dict[str, Any]:
    hosts = []
    for number, (wanted, pick, gpus) in enumerate(zip(groups, picks, taken, strict=True), 1):
        which = {"group": number} if len(groups) > 1 else {}
        counts = Counter(gpu.host_id for gpu in gpus)
        for host_id, many in counts.items():
            first = next(gpu for gpu in gpus if gpu.host_id == host_id)
            because = pick.because[host_id] + _slices(wanted, first)
            hosts.append(which | {"host": first.host, "gpus": many, "because": because})
    return {"policy": "spread" if spread else "pack", "hosts": hosts}


def _slices(wanted: Wanted, gpu: Taken) -> str:
    if wanted.mig_profile is None:
        return ""
    number = mig.instances(wanted.mig_profile, gpu.model, gpu.memory_mib)
    return f"; each of its GPUs carries {number} of {wanted.mig_profile}"


def _looked_up(tx: Session, ids: Sequence[UUID]) -> list[Taken]:
    statement = sa.select(GPU, HOST.c.name.label("host")).join(HOST, HOST.c.id == GPU.c.host_id)
    found = {row.id: _taken(row) for row in tx.execute(statement.where(GPU.c.id.in_(ids)))}
    return [found[gpu_id] for gpu_id in ids]


def _taken(row: Any) -> Taken:
    return Taken(row.id, row.host_id, row.host, row.index, row.uuid, row.model, row.memory_mib, row.region)
