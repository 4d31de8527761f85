"""Keeping what a check saw: a new finding, a warning, or a warning taken back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock
from api.core.access import Actor
from api.core.db import is_sqlite, table
from api.core.ids import new_id
from api.monitoring.lifecycle import Event, State
from api.monitoring.models import Action, Finding, Policy, Sighting
from api.monitoring.service import fire, tell
from api.settings import Settings

FINDINGS = table(Finding)
DOES = {
    Action.RELEASE_ALLOCATION: "the allocation is released",
    Action.RECLAIM_HOST: "the host is reclaimed",
    Action.FREE_GPUS: "the GPU is freed and its host reclaimed",
}
SEEN = (
    "subject",
    "host_id",
    "allocation_id",
    "workspace_id",
    "owner",
    "detail",
    "evidence",
    "action",
    "policy",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """`into`: the state that the finding came into, None where it stays. `due`: its warning has run out."""

    finding_id: UUID
    into: State | None
    due: bool


def see(tx: Session, actor: Actor, sighting: Sighting, settings: Settings, at: datetime) -> Kept | None:
    """Keep what a check saw at `at`; None where a finding of the same ended meanwhile, which is newer."""
    known = _locked(tx, sighting)
    finding, new = known or _opened(tx, actor, sighting, at), known is None
    if finding is None:
        return None
    if not sighting.whole and finding.state is State.WARNED:
        return Kept(finding.id, None, due=False)
    before = finding.state
    for name in SEEN:
        setattr(finding, name, getattr(sighting, name))
    finding.last_seen_at = clock.now()
    if before is State.OPEN and _will_act(sighting):
        _warn(tx, actor, finding, settings)
    elif before is State.WARNED and not _will_act(sighting):
        fire(tx, actor, finding, Event.CALM, reason=sighting.detail)
    elif new:
        tell(tx, finding, "leak.found", str(finding.id), sighting.detail)
    tx.flush()
    into = finding.state if new or finding.state is not before else None
    return Kept(finding.id, into, due=run_out(finding))


def run_out(finding: Finding) -> bool:
    """Whether its warning has run out, so that what was announced is to be done now."""
    return finding.state is State.WARNED and finding.act_at is not None and finding.act_at <= clock.now()


def _will_act(sighting: Sighting) -> bool:
    return sighting.policy is Policy.RECLAIM and sighting.action in DOES and sighting.whole


def _locked(tx: Session, sighting: Sighting) -> Finding | None:
    """The unresolved finding of the sighting's subject, locked."""
    statement = sa.select(Finding).where(
        col(Finding.kind) == sighting.kind,
        col(Finding.subject_id) == sighting.subject_id,
        col(Finding.resolved_at).is_(None),
    )
    return tx.execute(statement.with_for_update()).scalar_one_or_none()


def _opened(tx: Session, actor: Actor, sighting: Sighting, at: datetime) -> Finding | None:
    made = _insert(tx, sighting)
    if made is None:  # another scan was faster, and has told of it
        return None
    if _ended_since(tx, sighting, at):
        tx.execute(sa.delete(FINDINGS).where(FINDINGS.c.id == made))
        return None
    after = {"kind": sighting.kind, "subject": sighting.subject}
    audit.record(tx, actor, "finding.opened", made, after=after, reason=sighting.detail)
    return tx.get_one(Finding, made)


def _insert(tx: Session, sighting: Sighting) -> UUID | None:
    now = clock.now()
    row: dict[str, Any] = {name: getattr(sighting, name) for name in ("kind", "subject_id", *SEEN)}
    row |= {"id": new_id(), "state": State.OPEN, "first_seen_at": now, "last_seen_at": now}
    insert = (sqlite.insert if is_sqlite(tx) else postgresql.insert)(FINDINGS).values(row)
    return tx.execute(insert.on_conflict_do_nothing().returning(FINDINGS.c.id)).scalar_one_or_none()


def _ended_since(tx: Session, sighting: Sighting, at: datetime) -> bool:
    """Looked at after the insert, which waits for a transaction that ends the finding of the same."""
    statement = sa.select(col(Finding.id)).where(
        col(Finding.kind) == sighting.kind,
        col(Finding.subject_id) == sighting.subject_id,
        col(Finding.resolved_at) >= at,
    )
    return tx.execute(statement.limit(1)).first() is not None


def _warn(tx: Session, actor: Actor, finding: Finding, settings: Settings) -> None:
    fire(tx, actor, finding, Event.WARN, reason=finding.detail)
    finding.warned_at = clock.now()
    finding.act_at = finding.warned_at + timedelta(seconds=settings.leak_warning)
    at = f"{finding.act_at:%Y-%m-%dT%H:%M:%SZ}"
    text = f"{finding.detail} Unless that changes, {DOES[finding.action]} at {at}."
    tell(tx, finding, "leak.warned", f"{finding.id}:warned:{at}", text)
