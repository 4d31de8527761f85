"""Notices: what somebody should know of, said once; whoever delivers messages reads them from here."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import Json, UtcDateTime
from api.core.db import is_sqlite, table
from api.core.ids import new_id


class Notice(SQLModel, table=True):
    """For the members of a workspace, or for one user of it; for operators when both are empty."""

    __tablename__ = "notices"
    __table_args__ = (
        sa.Index("ix_notices_workspace_id", "workspace_id", "id"),
        sa.Index("ix_notices_subject_id", "subject_id", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    kind: str
    key: str = Field(unique=True)
    workspace_id: UUID | None = None
    user_id: UUID | None = None
    subject_id: UUID
    text: str = Field(sa_type=sa.Text)
    facts: dict[str, Any] = Field(default_factory=dict, sa_type=Json)


def tell(
    tx: Session,
    kind: str,
    key: str,
    subject_id: UUID,
    text: str,
    *,
    workspace_id: UUID | None = None,
    user_id: UUID | None = None,
    **facts: Any,
) -> bool:
    """Say it, unless it was said under this key before; True when it is new.

    `kind` is `<noun>.<verb in the past tense or participle>`, such as `allocation.expiring`.
    """
    row = {
        "id": new_id(),
        "at": clock.now(),
        "kind": kind,
        "key": key,
        "workspace_id": workspace_id,
        "user_id": user_id,
        "subject_id": subject_id,
        "text": text,
        "facts": facts,
    }
    insert = sqlite.insert if is_sqlite(tx) else postgresql.insert
    done = tx.execute(
        insert(table(Notice)).values(row).on_conflict_do_nothing().returning(table(Notice).c.id)
    )
    return done.first() is not None
