"""Use cases of findings: keep what was seen, warn, dismiss, resolve."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock, etags, notices
from api.core.access import Actor
from api.core.db import is_sqlite, table
from api.core.errors import NotFound
from api.core.ids import new_id
from api.monitoring.lifecycle import ENDED, Event, State, advance
from api.monitoring.models import Action, Finding, Kind, Policy, Sighting, Subject
from api.settings import Settings
from api.workspaces import service as workspaces

FINDINGS = table(Finding)
PAST = {
    Event.WARN: "warned",
    Event.CALM: "calmed",
    Event.DISMISS: "dismissed",
    Event.ACT: "acted_upon",
    Event.RESOLVE: "resolved",
}
DOES = {
    Action.RELEASE_ALLOCATION: "the allocation is released",
    Action.RECLAIM_HOST: "the host is reclaimed",
    Action.FREE_GPUS: "the GPU is freed and its host reclaimed",
}
# What every scan writes anew, without anybody's decision.
MEASURED = frozenset({"detail", "evidence", "last_seen_at"})


def version(finding: Finding) -> str:
    return etags.version(finding, aside=MEASURED)


def visible(actor: Actor) -> sa.Select[Finding]:
    """Operators see all findings, others those of their workspaces."""
    statement = sa.select(Finding)
    if actor.operates:
        return statement
    return statement.where(col(Finding.workspace_id).in_(workspaces.visible_ids(actor)))


def get(tx: Session, actor: Actor, finding_id: UUID) -> Finding:
    found = tx.execute(visible(actor).where(col(Finding.id) == finding_id)).scalar_one_or_none()
    if found is None:
        raise NotFound(f"There is no finding {finding_id} that you may see.")
    return found


def lock(tx: Session, finding_id: UUID) -> Finding:
    """Findings are locked before everything that follows from them: quotas, allocations, hosts, GPUs."""
    statement = sa.select(Finding).where(col(Finding.id) == finding_id).with_for_update()
    found = tx.execute(statement.execution_options(populate_existing=True)).scalar_one_or_none()
    if found is None:
        raise NotFound(f"There is no finding {finding_id}.")
    return found


def fire(tx: Session, actor: Actor, finding: Finding, event: Event, *, reason: str | None = None) -> None:
    """The one door of the lifecycle, for a locked finding."""
    before, now = finding.state, clock.now()
    finding.state = advance(before, event)
    if finding.state in ENDED:
        finding.resolved_at, finding.resolved_by, finding.resolution = now, actor.name, reason
    elif finding.state is State.DISMISSED:
        finding.resolved_by, finding.resolution = actor.name, reason
    if finding.state is not State.WARNED and finding.state not in ENDED:
        finding.warned_at, finding.act_at = None, None
    tx.flush()
    audit.record(
        tx,
        actor,
        f"finding.{PAST[event]}",
        finding.id,
        before={"state": before},
        after={"state": finding.state, "kind": finding.kind, "subject": finding.subject},
        reason=reason,
    )


def see(
    tx: Session, actor: Actor, sighting: Sighting, settings: Settings, at: datetime
) -> tuple[UUID | None, State | None]:
    """Keep what a check saw at `at`: the finding, and the state that it came into, None where it stays.

    There is no finding where one of the same ended meanwhile: the sighting is older than that.
    """
    opened = _opened(tx, actor, sighting, at)
    if opened is None:
        return None, None
    finding, new = opened
    if not new and not sighting.whole and finding.state is State.WARNED:
        return finding.id, None
    for name in ("detail", "evidence", "action", "policy", "owner", "subject", "host_id", "allocation_id"):
        setattr(finding, name, getattr(sighting, name))
    finding.workspace_id, finding.last_seen_at = sighting.workspace_id, clock.now()
    before = finding.state
    if before is State.OPEN and _will_act(sighting):
        _warn(tx, actor, finding, settings)
    elif before is State.WARNED and not _will_act(sighting):
        fire(tx, actor, finding, Event.CALM, reason=sighting.detail)
    elif new:
        _tell(tx, finding, "leak.found", str(finding.id), sighting.detail)
    tx.flush()
    return finding.id, finding.state if new or finding.state is not before else None


def _will_act(sighting: Sighting) -> bool:
    return sighting.policy is Policy.RECLAIM and sighting.action in DOES and sighting.whole


def _opened(tx: Session, actor: Actor, sighting: Sighting, at: datetime) -> tuple[Finding, bool] | None:
    """The unresolved finding of the sighting's subject, locked; True when it was made for it."""
    now = clock.now()
    names = ("kind", "subject_id", "subject", "host_id", "allocation_id", "workspace_id", "owner", "detail")
    row: dict[str, Any] = {name: getattr(sighting, name) for name in names}
    row |= {"evidence": sighting.evidence, "action": sighting.action, "policy": sighting.policy}
    row |= {"id": new_id(), "state": State.OPEN, "first_seen_at": now, "last_seen_at": now}
    made = _insert(tx, row)
    if made is not None and _ended_since(tx, sighting, at):
        tx.execute(sa.delete(FINDINGS).where(FINDINGS.c.id == made))
        return None
    if made is not None:
        after = {"kind": sighting.kind, "subject": sighting.subject}
        audit.record(tx, actor, "finding.opened", made, after=after, reason=sighting.detail)
        return lock(tx, made), True
    statement = sa.select(col(Finding.id)).where(
        col(Finding.kind) == sighting.kind,
        col(Finding.subject_id) == sighting.subject_id,
        col(Finding.resolved_at).is_(None),
    )
    present = tx.execute(statement).scalar_one_or_none()
    if present is None:  # it ended between the two statements
        return _opened(tx, actor, sighting, at)
    return lock(tx, present), False


def _insert(tx: Session, row: dict[str, Any]) -> UUID | None:
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
    _tell(tx, finding, "leak.warned", f"{finding.id}:warned:{at}", text)


def _tell(tx: Session, finding: Finding, kind: str, key: str, text: str) -> None:
    """Whoever holds it, or the operators."""
    notices.tell(
        tx,
        kind,
        f"{kind}:{key}",
        finding.allocation_id or finding.subject_id,
        text,
        workspace_id=finding.workspace_id,
        finding_id=str(finding.id),
        finding_kind=finding.kind,
        action=finding.action,
        act_at=finding.act_at.isoformat() if finding.act_at else None,
    )


def acted(tx: Session, actor: Actor, finding: Finding, reason: str) -> None:
    """What had to be done about a locked finding is done, in this transaction."""
    fire(tx, actor, finding, Event.ACT, reason=reason)
    _tell(tx, finding, "leak.acted", str(finding.id), f"{finding.detail} {reason}")


def dismiss(tx: Session, actor: Actor, finding_id: UUID, reason: str) -> Finding:
    """Leave it as it is for as long as it lasts. Raises WrongState when it has ended."""
    finding = lock(tx, finding_id)
    fire(tx, actor, finding, Event.DISMISS, reason=reason)
    return finding


def resolve(tx: Session, actor: Actor, finding_id: UUID, since: datetime, reason: str) -> bool:
    """End a finding that is no longer there; False when somebody else ended it or saw it after `since`."""
    finding = lock(tx, finding_id)
    if finding.resolved_at is not None or finding.last_seen_at > since:
        return False
    fire(tx, actor, finding, Event.RESOLVE, reason=reason)
    return True


def not_acted(tx: Session, finding_id: UUID, why: str) -> None:
    """Keep why what was announced could not be done."""
    finding = lock(tx, finding_id)
    finding.evidence = finding.evidence | {"not_acted": why}


def unresolved(tx: Session) -> dict[Subject, UUID]:
    rows = tx.execute(
        sa.select(col(Finding.kind), col(Finding.subject_id), col(Finding.id))
        .where(col(Finding.resolved_at).is_(None))
        .order_by(col(Finding.id))
    )
    return {(row.kind, row.subject_id): row.id for row in rows}


def warned(tx: Session, finding_id: UUID) -> bool:
    """Whether a warning has run out, so that what was announced is to be done now."""
    finding = tx.get_one(Finding, finding_id)
    return finding.state is State.WARNED and finding.act_at is not None and finding.act_at <= clock.now()


def count(tx: Session) -> list[tuple[tuple[str, ...], float]]:
    """((kind, state), number)"""
    by = (col(Finding.kind), col(Finding.state))
    rows = tx.execute(sa.select(*by, sa.func.count()).group_by(*by).order_by(*by))
    return [((str(kind), str(state)), float(number)) for kind, state, number in rows]


def matching(
    statement: sa.Select[Finding],
    *,
    kind: Kind | None,
    states: Collection[State] | None,
    workspace_id: UUID | None,
    unresolved: bool | None,
) -> sa.Select[Finding]:
    if kind is not None:
        statement = statement.where(col(Finding.kind) == kind)
    if states:
        statement = statement.where(col(Finding.state).in_(states))
    if workspace_id is not None:
        statement = statement.where(col(Finding.workspace_id) == workspace_id)
    if unresolved is not None:
        ended = col(Finding.resolved_at)
        statement = statement.where(ended.is_(None) if unresolved else ended.is_not(None))
    return statement
