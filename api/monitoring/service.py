"""Use cases of findings: keep what was seen, warn, dismiss, resolve."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock, etags, notices
from api.core.access import Actor
from api.core.db import table
from api.core.errors import NotFound
from api.monitoring.lifecycle import ENDED, Event, State, advance
from api.monitoring.models import Finding, Kind, Subject
from api.workspaces import service as workspaces

FINDINGS = table(Finding)
PAST = {
    Event.WARN: "warned",
    Event.CALM: "calmed",
    Event.DISMISS: "dismissed",
    Event.ACT: "acted_upon",
    Event.RESOLVE: "resolved",
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


def tell(tx: Session, finding: Finding, kind: str, key: str, text: str) -> None:
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
    tell(tx, finding, "leak.acted", str(finding.id), f"{finding.detail} {reason}")


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
