"""Idempotency keys: a change that is asked for twice under one key is made once and answered alike.

The key is written in the transaction of the change itself, before anything else: a twin that comes meanwhile
waits for that transaction and then finds its answer. What failed leaves no key behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import sqlalchemy as sa
from fastapi import Request, Response
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.access import Actor
from api.core.columns import Json, UtcDateTime
from api.core.crypto import SecretBox
from api.core.errors import Conflict, Invalid
from api.core.ids import new_id

HEADER, REPLAYED = "Idempotency-Key", "Idempotency-Replayed"
ASKED = "idempotency"  # where a transaction carries what was asked for under a key
LONGEST = 128
PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "makes asking again safe: the same request under the same key is done once, for 24 hours",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST},
}


class IdempotencyKey(SQLModel, table=True):
    """`digest` is of the body; `answer` is sealed, since some answers hold a secret that is shown once."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (sa.UniqueConstraint("actor", "key"),)

    id: UUID = Field(default_factory=new_id, primary_key=True)
    actor: str
    key: str
    method: str = Field(sa_type=sa.String(8))
    path: str
    digest: str = Field(sa_type=sa.String(64))
    status: int | None = None
    answer: bytes | None = None
    headers: dict[str, Any] | None = Field(default=None, sa_type=Json)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)


KEYS = cast("sa.Table", IdempotencyKey.__table__)  # type: ignore[attr-defined]


class KeyReused(Conflict):
    code, title = "idempotency-key-reused", "The Idempotency-Key belongs to another request"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came with a key. `path` includes the query, `lifetime` is in seconds."""

    key: str
    method: str
    path: str
    body: bytes
    box: SecretBox
    lifetime: float


async def asked(request: Request) -> Asked | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    query = request.url.query
    state = request.app.state
    return Asked(
        key,
        request.method,
        request.url.path + (f"?{query}" if query else ""),
        await request.body(),
        state.secret_box,
        state.settings.idempotency_lifetime,
    )


def once(tx: Session, asked: Asked, actor: Actor, change: Callable[[], Response]) -> Response:
    """The answer of `change`, or the one that it gave to the same request under the same key before.

    Raises KeyReused when the key came with another request, Invalid when it is no key.
    """
    if not 1 <= len(asked.key) <= LONGEST:
        raise Invalid(f"An {HEADER} has 1 to {LONGEST} characters.")
    own = _row(asked, actor)
    earlier = _earlier(tx, own, asked.lifetime)
    if earlier is not None:
        return _replay(asked, own, earlier)
    answer = change()
    kept = {
        "status": answer.status_code,
        "answer": asked.box.seal_bytes(bytes(answer.body)),
        "headers": {name: value for name, value in answer.headers.items() if name != "content-length"},
    }
    tx.execute(sa.update(KEYS).where(KEYS.c.id == own["id"]).values(kept))
    return answer


def _row(asked: Asked, actor: Actor) -> dict[str, Any]:
    return {
        "id": new_id(),
        "actor": str(actor.user_id or actor.name),
        "key": asked.key,
        "method": asked.method,
        "path": asked.path,
        "digest": asked.box.fingerprint(_canonical(asked.body)),
        "created_at": clock.now(),
    }


def _canonical(body: bytes) -> bytes:
    """The same for the same JSON, however it is spaced and ordered."""
    try:
        return json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    except ValueError:
        return body


def _earlier(tx: Session, own: dict[str, Any], lifetime: float) -> sa.Row[Any] | None:
    """Takes the key: None, or whose it is already. Waits for a transaction that has it and has not ended."""
    same = (KEYS.c.actor == own["actor"], KEYS.c.key == own["key"])
    oldest = own["created_at"] - timedelta(seconds=lifetime)
    while not _inserted(tx, own):
        found = tx.execute(sa.select(KEYS).where(*same)).one_or_none()
        if found is not None and found.created_at > oldest:
            return found
        tx.execute(sa.delete(KEYS).where(*same, KEYS.c.created_at <= oldest))
    return None


def _inserted(tx: Session, own: dict[str, Any]) -> bool:
    dialect = sqlite if tx.get_bind().dialect.name == "sqlite" else postgresql
    insert = dialect.insert(KEYS).values(own).on_conflict_do_nothing(index_elements=["actor", "key"])
    return tx.execute(insert.returning(KEYS.c.id)).one_or_none() is not None


def _replay(asked: Asked, own: dict[str, Any], earlier: sa.Row[Any]) -> Response:
    if (earlier.method, earlier.path, earlier.digest) != (own["method"], own["path"], own["digest"]):
        raise KeyReused(
            f"This {HEADER} was used at {earlier.created_at:%Y-%m-%dT%H:%M:%SZ} for {earlier.method} "
            f"{earlier.path}{'' if earlier.digest == own['digest'] else ' with another body'}; "
            "use a new one for a new request.",
            method=earlier.method,
            path=earlier.path,
        )
    body = asked.box.open_bytes(earlier.answer)  # the digest is under the same secret, and it was the same
    return Response(body, earlier.status, headers=earlier.headers | {REPLAYED: "true"})


def any_outlived(tx: Session, *, lifetime: float) -> bool:
    """Whether there are keys older than `lifetime` seconds."""
    return tx.execute(_outlived(lifetime, 1)).first() is not None


def purge(tx: Session, *, lifetime: float, limit: int = 10_000) -> None:
    """Forget keys older than `lifetime` seconds, at most `limit` at a time."""
    tx.execute(sa.delete(KEYS).where(KEYS.c.id.in_(_outlived(lifetime, limit))))


def _outlived(lifetime: float, limit: int) -> sa.Select[UUID]:
    past = KEYS.c.created_at <= clock.now() - timedelta(seconds=lifetime)
    return sa.select(KEYS.c.id).where(past).order_by(KEYS.c.created_at).limit(limit)
