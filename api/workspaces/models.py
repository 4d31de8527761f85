"""Tables and shapes of workspaces, their members and their quotas."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import EnumText, UtcDateTime
from api.core.ids import new_id

ALL_MODELS = ""


class WorkspaceRole(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


MAY_CLAIM = frozenset({WorkspaceRole.OWNER, WorkspaceRole.ADMIN, WorkspaceRole.MEMBER})


class Workspace(SQLModel, table=True):
    __tablename__ = "workspaces"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    slug: str = Field(unique=True)
    name: str
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class Membership(SQLModel, table=True):
    __tablename__ = "memberships"

    workspace_id: UUID = Field(foreign_key="workspaces.id", primary_key=True)
    user_id: UUID = Field(foreign_key="users.id", primary_key=True, index=True)
    role: WorkspaceRole = Field(sa_type=EnumText(WorkspaceRole))


class Quota(SQLModel, table=True):
    """GPUs at once, for one model or (model empty) in all.

    `gpus_held` is kept by triggers on the holds; another trigger refuses an increase past `gpu_limit`.
    """

    __tablename__ = "quotas"
    __table_args__ = (
        sa.CheckConstraint("gpu_limit >= 0", name="limit_not_negative"),
        sa.CheckConstraint("gpus_held >= 0", name="held_not_negative"),
    )

    workspace_id: UUID = Field(foreign_key="workspaces.id", primary_key=True)
    model: str = Field(default=ALL_MODELS, primary_key=True)
    gpu_limit: int
    gpus_held: int = 0


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


class WorkspaceCreate(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"example": {"slug": "vision", "name": "Vision research", "gpus": 8}}
    )

    slug: Slug
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    gpus: int | None = Member(
        default=None, ge=0, le=1_000_000, description="GPUs at once; absent: the default"
    )


class WorkspaceRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    slug: str
    name: str
    created_at: datetime


class QuotaSet(BaseModel):
    """The whole quota. Lowering it below what is held ends nothing; it only blocks new claims."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"gpus": 16, "models": {"NVIDIA H100 80GB HBM3": 8}}}, extra="forbid"
    )

    gpus: int = Member(ge=0, le=1_000_000, description="GPUs at once, of all models together")
    models: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=128)],
        Annotated[int, Member(ge=0, le=1_000_000)],
    ] = Member(default_factory=dict, max_length=100, description="GPUs at once of one model")


class QuotaRead(BaseModel):
    model: str | None = Member(description="null: of all models together")
    gpu_limit: int
    gpus_held: int


class MembershipSet(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"role": "member"}})

    role: WorkspaceRole


class MembershipRead(BaseModel):
    user_id: UUID
    email: str
    role: WorkspaceRole
