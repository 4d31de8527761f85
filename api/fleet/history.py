"""What happened to a host, as one list: audit trail, operations, health checks that it did not pass."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel
from pydantic import Field as Member
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.audit import AuditEvent
from api.core.operations.models import Operation
from api.core.pagination import Paging, page_of
from api.fleet.health_models import HealthCheck, Verdict


class Source(StrEnum):
    AUDIT = "audit"
    OPERATION = "operation"
    HEALTH = "health"


class HistoryEntry(BaseModel):
    id: UUID
    at: datetime
    source: Source
    what: str = Member(description="an audited action, an operation's kind, or `health.<verdict>`")
    by: str | None = Member(description="who asked; null for the platform's own checks")
    reason: str | None
    operation_id: UUID | None
    detail: dict[str, Any] = Member(description="the change, how the operation stands, or the failed checks")


def entries(
    tx: Session, host_id: UUID, pages: Paging, source: Source | None
) -> tuple[list[HistoryEntry], str | None]:
    """Newest first. Ids grow with time in every table, so one cursor fits all three."""
    found = [
        entry
        for known, read in READERS.items()
        if source in (None, known)
        for entry in read(tx, host_id, pages)
    ]
    return page_of(sorted(found, key=lambda entry: entry.id, reverse=True), pages)


def _audit(tx: Session, host_id: UUID, pages: Paging) -> Iterator[HistoryEntry]:
    for row in _rows(tx, AuditEvent, col(AuditEvent.subject_id) == host_id, pages):
        yield HistoryEntry(
            id=row.id,
            at=row.at,
            source=Source.AUDIT,
            what=row.action,
            by=row.actor,
            reason=row.reason,
            operation_id=None,
            detail={"before": row.before, "after": row.after},
        )


def _operations(tx: Session, host_id: UUID, pages: Paging) -> Iterator[HistoryEntry]:
    for row in _rows(tx, Operation, col(Operation.subject_id) == host_id, pages):
        yield HistoryEntry(
            id=row.id,
            at=row.created_at,
            source=Source.OPERATION,
            what=row.kind,
            by=row.requested_by,
            reason=row.reason,
            operation_id=row.id,
            detail={"state": row.state, "step": row.step, "ended_at": row.ended_at, "worker": row.worker},
        )


def _health(tx: Session, host_id: UUID, pages: Paging) -> Iterator[HistoryEntry]:
    failed = sa.and_(col(HealthCheck.host_id) == host_id, col(HealthCheck.verdict) != Verdict.PASS)
    for row in _rows(tx, HealthCheck, failed, pages):
        yield HistoryEntry(
            id=row.id,
            at=row.at,
            source=Source.HEALTH,
            what=f"health.{row.verdict}",
            by=None,
            reason=row.reason,
            operation_id=row.operation_id,
            detail={"level": row.level, "checks": row.checks},
        )


READERS = {Source.AUDIT: _audit, Source.OPERATION: _operations, Source.HEALTH: _health}


def _rows(tx: Session, model: Any, wanted: sa.ColumnElement[bool], pages: Paging) -> Any:
    statement = sa.select(model).where(wanted)
    if pages.after is not None:
        statement = statement.where(col(model.id) < pages.after)
    return tx.execute(statement.order_by(col(model.id).desc()).limit(pages.limit + 1)).scalars()
