"""Tables and shapes of what is proven of a host: its manifests and the records of its reclaims."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id


class HostManifest(SQLModel, table=True):
    """What a host was when it was enrolled. `document` is deflated canonical JSON, `index` xz."""

    __tablename__ = "host_manifests"
    __table_args__ = (sa.UniqueConstraint("host_id", "number"),)

    id: UUID = Field(default_factory=new_id, primary_key=True)
    host_id: UUID = Field(foreign_key="hosts.id")
    number: int
    digest: str = Field(max_length=64)
    document: bytes
    index_digest: str | None = Field(default=None, max_length=64)
    index: bytes | None = None
    signature: str | None = Field(default=None, sa_type=sa.Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class RecordOutcome(StrEnum):
    CLEAN = "clean"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ReclaimRecord(SQLModel, table=True):
    """The signature holds the whole record; `summary` repeats of it what lists show."""

    __tablename__ = "reclaim_records"
    __table_args__ = (sa.UniqueConstraint("host_id", "number"),)

    id: UUID = Field(default_factory=new_id, primary_key=True)
    host_id: UUID = Field(foreign_key="hosts.id")
    number: int
    operation_id: UUID = Field(foreign_key="operations.id", unique=True)
    outcome: RecordOutcome = Field(sa_type=EnumText(RecordOutcome))
    summary: dict[str, Any] = Field(sa_type=Json)
    signature: str = Field(sa_type=sa.Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class RecordSummary(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    number: int
    host_id: UUID
    operation_id: UUID
    outcome: RecordOutcome
    failed_step: str | None
    reason: str | None
    removed: int = Member(description="how many things of the tenant were found and removed")
    findings: int = Member(description="how many things could not be made right")
    seconds: float | None
    manifest: int | None = Member(description="the number of the manifest that it was compared with")
    created_at: datetime


class RecordRead(RecordSummary):
    record: dict[str, Any] = Member(description="what the signature states; see docs/proof.md")
    signature: str = Member(description="a JWS in compact form; its payload is the record")


class ManifestRead(BaseModel):
    host_id: UUID
    number: int
    digest: str = Member(description="SHA-256 of the manifest in canonical JSON, hexadecimal")
    index_digest: str | None = Member(description="SHA-256 of the index's bytes")
    created_at: datetime
    signature: str | None = Member(
        description="a JWS that states these; null: recorded before the platform signed manifests"
    )
    manifest: dict[str, Any]
