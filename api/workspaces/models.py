"""Tables and shapes of workspaces, their members and their quotas."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated
from uuid import UUID
from zoneinfo import available_timezones

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import EnumText, Exact, UtcDateTime
from api.core.ids import new_id

ALL_MODELS = ""


class WorkspaceRole(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


MAY_CLAIM = frozenset({WorkspaceRole.OWNER, WorkspaceRole.ADMIN, WorkspaceRole.MEMBER})


class Approval(StrEnum):
    """Who must agree to a claim before it holds anything."""

    NONE = "none"
    WORKSPACE = "workspace"  # an owner or admin of the workspace
    OPERATOR = "operator"


class Scope(StrEnum):
    """The levels at which quotas and budgets apply; each contains the next."""

    ORGANISATION = "organisation"
    WORKSPACE = "workspace"
    MEMBER = "member"


class Resource(StrEnum):
    """What is limited at any one time."""

    GPUS = "gpus"
    STORAGE = "storage_gib"
    ENVIRONMENTS = "environments"


class Spent(StrEnum):
    """What is limited by the calendar month."""

    GPU_SECONDS = "gpu_seconds"
    MONEY = "money"


class Organisation(SQLModel, table=True):
    __tablename__ = "organisations"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    slug: str = Field(unique=True)
    name: str
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class Workspace(SQLModel, table=True):
    __tablename__ = "workspaces"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    slug: str = Field(unique=True)
    name: str
    organisation_id: UUID = Field(foreign_key="organisations.id", index=True)
    approval: Approval = Field(default=Approval.NONE, sa_type=EnumText(Approval))
    time_zone: str = "UTC"
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class Membership(SQLModel, table=True):
    """`id` is the scope of the member's own quotas."""

    __tablename__ = "memberships"

    workspace_id: UUID = Field(foreign_key="workspaces.id", primary_key=True)
    user_id: UUID = Field(foreign_key="users.id", primary_key=True, index=True)
    id: UUID = Field(default_factory=new_id, unique=True)
    role: WorkspaceRole = Field(sa_type=EnumText(WorkspaceRole))


class Quota(SQLModel, table=True):
    """A limit at any one time, of an organisation, a workspace or a member (then of the membership's id).

    Of GPUs it is for one model or (model empty) for all. `used` counts: of GPUs, triggers on the holds keep
    it; another trigger refuses an increase past `hard_limit`. A workspace always has its row of all GPUs;
    that one tells as well whether the workspace, its organisation or one of its members has a budget.
    """

    __tablename__ = "quotas"
    __table_args__ = (
        sa.CheckConstraint("hard_limit >= 0", name="limit_not_negative"),
        sa.CheckConstraint("soft_limit >= 0", name="soft_not_negative"),
        sa.CheckConstraint("used >= 0", name="used_not_negative"),
    )

    scope_id: UUID = Field(primary_key=True)
    resource: Resource = Field(default=Resource.GPUS, primary_key=True, sa_type=EnumText(Resource))
    model: str = Field(default=ALL_MODELS, primary_key=True)
    scope: Scope = Field(sa_type=EnumText(Scope))
    workspace_id: UUID | None = Field(default=None, foreign_key="workspaces.id", index=True)
    hard_limit: int | None = Field(default=None, sa_type=sa.BigInteger)
    soft_limit: int | None = Field(default=None, sa_type=sa.BigInteger)
    used: int = Field(default=0, sa_type=sa.BigInteger)
    budgeted: bool = False


class Budget(SQLModel, table=True):
    """A limit by the calendar month (of the workspace's time zone; an organisation's is UTC)."""

    __tablename__ = "budgets"
    __table_args__ = (
        sa.CheckConstraint("hard_limit >= 0", name="limit_not_negative"),
        sa.CheckConstraint("soft_limit >= 0", name="soft_not_negative"),
    )

    scope_id: UUID = Field(primary_key=True)
    resource: Spent = Field(primary_key=True, sa_type=EnumText(Spent))
    scope: Scope = Field(sa_type=EnumText(Scope))
    workspace_id: UUID | None = Field(default=None, foreign_key="workspaces.id", index=True)
    hard_limit: Decimal | None = Field(default=None, sa_type=Exact)
    soft_limit: Decimal | None = Field(default=None, sa_type=Exact)


class BudgetPeriod(SQLModel, table=True):
    """What is promised of a budget in one month: used, and yet to be used by what is held or reserved.

    An increase of `committed` past the hard limit is refused by a trigger. `overrun` is what holds used past
    their planned end, because nobody was there to end them.
    """

    __tablename__ = "budget_periods"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["scope_id", "resource"], ["budgets.scope_id", "budgets.resource"], ondelete="CASCADE"
        ),
        sa.CheckConstraint("committed >= 0", name="committed_not_negative"),
        sa.CheckConstraint("period_end > period_start", name="ends_after_start"),
    )

    scope_id: UUID = Field(primary_key=True)
    resource: Spent = Field(primary_key=True, sa_type=EnumText(Spent))
    period_start: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    period_end: datetime = Field(sa_type=UtcDateTime)
    committed: Decimal = Field(default=Decimal(0), sa_type=Exact)
    overrun: Decimal = Field(default=Decimal(0), sa_type=Exact)


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=64)]


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("not a time zone of the IANA database, such as Europe/Berlin")
    return name


Zone = Annotated[str, AfterValidator(_known_zone)]


class OrganisationCreate(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"example": {"slug": "research", "name": "Research"}}, extra="forbid"
    )

    slug: Slug
    name: Name


class OrganisationChange(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "Research"}}, extra="forbid")

    name: Name


class OrganisationRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    slug: str
    name: str
    created_at: datetime


class WorkspaceCreate(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"example": {"slug": "vision", "name": "Vision research", "gpus": 8}}
    )

    slug: Slug
    name: Name
    gpus: int | None = Member(
        default=None, ge=0, le=1_000_000, description="GPUs at once; absent: the default"
    )
    organisation: Reference | None = Member(default=None, description="slug or id; absent: the first")
    time_zone: Zone = Member(default="UTC", description="IANA name; its months are those of the budgets")


class WorkspaceChange(BaseModel):
    """What is absent stays. Another time zone counts from the end of the present month of the budgets on."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"organisation": "research", "time_zone": "Europe/Berlin"}},
        extra="forbid",
    )

    name: Name | None = None
    organisation: Reference | None = Member(default=None, description="slug or id")
    time_zone: Zone | None = Member(default=None, description="IANA name")
    approval: Approval | None = Member(
        default=None, description="of claims: `none`, `workspace` (by its owners and admins) or `operator`"
    )


class WorkspaceRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    slug: str
    name: str
    organisation_id: UUID
    approval: Approval
    time_zone: str
    created_at: datetime


class MembershipSet(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"role": "member"}})

    role: WorkspaceRole


class MembershipRead(BaseModel):
    user_id: UUID
    email: str
    role: WorkspaceRole
