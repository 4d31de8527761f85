"""Use cases of proof: keep a host's manifests, write and read the records of its reclaims."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections import Counter
from importlib.metadata import version
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import clock, proof
from api.core.db import table
from api.core.errors import Invalid, NotFound
from api.core.operations.lifecycle import State as OperationState
from api.core.operations.models import Operation
from api.core.pagination import Paging, fetch
from api.core.proof_keys import sign
from api.fleet.evidence import (
    HostManifest,
    ManifestRead,
    ReclaimRecord,
    RecordOutcome,
    RecordRead,
    RecordSummary,
)
from api.fleet.models import Host
from api.fleet.reports import PlayReport

MANIFEST_TYPE, RECORD_TYPE = "ironyard.host-manifest", "ironyard.reclaim-record"
CLEANED, REIMAGED = "clean", "reimage"
PATHS_OF_A_KIND = 200
MANIFESTS = table(HostManifest)
OUTCOMES = {
    OperationState.SUCCEEDED: RecordOutcome.CLEAN,
    OperationState.FAILED: RecordOutcome.FAILED,
    OperationState.CANCELLED: RecordOutcome.CANCELLED,
}


def keep_manifest(tx: Session, host: Host, document: dict[str, Any], index: str | None) -> None:
    """Keep and sign what enroll recorded; the same as before makes no new number and comes without its index.

    `index` is base64. Raises Invalid when it is not what the manifest says of it.
    """
    digest = proof.digest(document)
    last = _newest(tx, host.id)
    if last is not None and last.digest == digest and last.signature is not None:
        return
    raw = _checked_index(host, document, index)
    row = HostManifest(
        host_id=host.id,
        number=last.number + 1 if last else 1,
        digest=digest,
        document=zlib.compress(proof.canonical(document)),
        index_digest=hashlib.sha256(raw).hexdigest() if raw is not None else None,
        index=raw,
    )
    row.signature = sign(tx, _statement(row, host.name))
    tx.execute(sa.insert(MANIFESTS).values(row.model_dump()))
    # What a host was compared with stays; the table of its files is kept for the present manifest only.
    earlier = sa.and_(MANIFESTS.c.host_id == host.id, MANIFESTS.c.number < row.number)
    tx.execute(sa.update(MANIFESTS).where(earlier).values(index=None))


def _checked_index(host: Host, document: dict[str, Any], index: str | None) -> bytes | None:
    told = (document.get("index") or {}).get("sha256")
    if index is None and told is None:
        return None
    try:
        raw = base64.b64decode(index or "", validate=True)
    except binascii.Error as error:
        raise Invalid(f"The index of {host.name} cannot be read: {error}.") from error
    if hashlib.sha256(raw).hexdigest() != told:
        raise Invalid(f"The index of {host.name} is not the one that its manifest names.")
    return raw


def _statement(row: HostManifest, name: str) -> dict[str, Any]:
    return {
        "type": MANIFEST_TYPE,
        "host": {"id": str(row.host_id), "name": name},
        "number": row.number,
        "manifest_sha256": row.digest,
        "index_sha256": row.index_digest,
        "created_at": row.created_at.isoformat(),
    }


def manifest_of(tx: Session, host_id: UUID) -> dict[str, Any] | None:
    """The manifest that the host is compared with."""
    row = _newest(tx, host_id)
    return _opened(row.document) if row else None


def manifests(tx: Session) -> dict[UUID, dict[str, Any]]:
    """Every host's present manifest."""
    newest = (
        sa.select(MANIFESTS.c.host_id, sa.func.max(MANIFESTS.c.number).label("number"))
        .group_by(MANIFESTS.c.host_id)
        .subquery()
    )
    present = sa.and_(MANIFESTS.c.host_id == newest.c.host_id, MANIFESTS.c.number == newest.c.number)
    rows = tx.execute(sa.select(MANIFESTS.c.host_id, MANIFESTS.c.document).join(newest, present))
    return {row.host_id: _opened(row.document) for row in rows}


def index_of(tx: Session, host_id: UUID) -> bytes | None:
    """The xz bytes of the index that belongs to the present manifest."""
    found: bytes | None = tx.execute(
        sa.select(MANIFESTS.c.index)
        .where(MANIFESTS.c.host_id == host_id)
        .order_by(MANIFESTS.c.number.desc())
        .limit(1)
    ).scalar()
    return found


def read_manifest(tx: Session, host_id: UUID, number: int | None) -> ManifestRead:
    row = _newest(tx, host_id, number)
    if row is None:
        raise NotFound("No such manifest of this host was recorded; enroll records one.")
    return ManifestRead(
        host_id=host_id,
        number=row.number,
        digest=row.digest,
        index_digest=row.index_digest,
        created_at=row.created_at,
        signature=row.signature,
        manifest=_opened(row.document),
    )


def _newest(tx: Session, host_id: UUID, number: int | None = None) -> Any:
    columns = [column for column in MANIFESTS.c if column.name != "index"]
    statement = sa.select(*columns).where(MANIFESTS.c.host_id == host_id)
    if number is not None:
        statement = statement.where(MANIFESTS.c.number == number)
    return tx.execute(statement.order_by(MANIFESTS.c.number.desc()).limit(1)).one_or_none()


def _opened(document: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(zlib.decompress(document))
    return found


def write_record(
    tx: Session, host: Host, operation: Operation, report: PlayReport | None, *, method: str = CLEANED
) -> None:
    """Sign what came of a reclaim that has ended, well or not. The host has moved already."""
    last = _last_record(tx, host.id)
    number = last.number + 1 if last else 1
    document = _record(tx, host, operation, report, method)
    previous = hashlib.sha256(last.signature.encode()).hexdigest() if last else None
    document |= {"number": number, "previous_sha256": previous}
    row = ReclaimRecord(
        host_id=host.id,
        number=number,
        operation_id=operation.id,
        outcome=OUTCOMES[operation.state],
        summary=_summary(document),
        signature=sign(tx, document),
    )
    tx.add(row)
    tx.flush()


def _record(
    tx: Session, host: Host, operation: Operation, report: PlayReport | None, method: str
) -> dict[str, Any]:
    before = _newest(tx, host.id)
    began, ended = operation.started_at or operation.created_at, operation.ended_at or clock.now()
    steps = [_step(step) for step in report.steps] if report else []
    return {
        "type": RECORD_TYPE,
        "host": {"id": str(host.id), "name": host.name, "address": host.address},
        "method": method,
        "outcome": OUTCOMES[operation.state],
        "failed_step": host.failed_step,
        "reason": operation.reason,
        "state_after": host.state,
        "manifest": before
        and {"number": before.number, "sha256": before.digest, "index_sha256": before.index_digest},
        "operation": {
            "id": str(operation.id),
            "requested_by": operation.requested_by,
            "worker": operation.worker,
            "attempt": operation.attempt,
        },
        "playbook": {
            "name": report.playbook if report else None,
            "version": report.version if report else None,
            "sha256": report.digest if report else None,
        },
        "platform": version("ironyard"),
        "started_at": began.isoformat(),
        "ended_at": ended.isoformat(),
        "seconds": round((ended - began).total_seconds(), 3),
        "steps": steps,
        "removed": dict(sum((Counter(step["removed"]) for step in steps), Counter())),
        "findings": report.findings if report else [],
        "health": report.health if report else None,
    }


def _step(step: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "status", "seconds", "changed", "evidence")
    kept = {name: step.get(name) for name in names}
    paths = {kind: list(found) for kind, found in (step.get("paths") or {}).items()}
    dropped = int(step.get("paths_dropped") or 0)
    dropped += sum(max(0, len(found) - PATHS_OF_A_KIND) for found in paths.values())
    return kept | {
        "removed": dict(step.get("removed") or {}),
        "paths": {kind: found[:PATHS_OF_A_KIND] for kind, found in paths.items()},
        "paths_dropped": dropped,
    }


def _summary(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "failed_step": document["failed_step"],
        "reason": document["reason"],
        "removed": sum(document["removed"].values()),
        "findings": len(document["findings"]),
        "seconds": document["seconds"],
        "manifest": (document["manifest"] or {}).get("number"),
    }


def _last_record(tx: Session, host_id: UUID) -> ReclaimRecord | None:
    statement = sa.select(ReclaimRecord).where(col(ReclaimRecord.host_id) == host_id)
    return tx.execute(statement.order_by(col(ReclaimRecord.number).desc()).limit(1)).scalar_one_or_none()


def records(tx: Session, host_id: UUID, pages: Paging) -> tuple[list[RecordSummary], str | None]:
    """A host's reclaims, newest first."""
    statement = sa.select(ReclaimRecord).where(col(ReclaimRecord.host_id) == host_id)
    rows, following = fetch(tx, statement, col(ReclaimRecord.id), pages, newest_first=True)
    return [RecordSummary.model_validate(_told(row)) for row in rows], following


def record(tx: Session, host_id: UUID, number: int) -> RecordRead:
    row = tx.execute(
        sa.select(ReclaimRecord).where(
            col(ReclaimRecord.host_id) == host_id, col(ReclaimRecord.number) == number
        )
    ).scalar_one_or_none()
    if row is None:
        raise NotFound(f"This host has no reclaim number {number}.")
    more = {"record": proof.claimed(row.signature), "signature": row.signature}
    return RecordRead.model_validate(_told(row) | more)


def _told(row: ReclaimRecord) -> dict[str, Any]:
    return row.model_dump(exclude={"summary", "signature"}) | row.summary
