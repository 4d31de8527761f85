"""Tables and shapes of hosts and GPUs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id
from api.fleet.health_models import Action, InventoryHealth, Verdict
from api.fleet.lifecycle import State


class ReclaimPolicy(StrEnum):
    CLEAN = "clean"
    REIMAGE = "reimage"


class DrainsTo(StrEnum):
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


class Health(StrEnum):
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


NOT_RETIRED = sa.text("state <> 'retired'")
NOT_REMOVED = sa.text("removed_at IS NULL")
FREE = sa.text("schedulable AND held_by IS NULL")
FREE_SQLITE = sa.text("schedulable = 1 AND held_by IS NULL")  # as SQLAlchemy writes the condition there


class Host(SQLModel, table=True):
    __tablename__ = "hosts"
    __table_args__ = (
        sa.Index(
            "uq_hosts_name", "name", unique=True, sqlite_where=NOT_RETIRED, postgresql_where=NOT_RETIRED
        ),
        sa.Index(
            "uq_hosts_address",
            "address",
            "port",
            unique=True,
            sqlite_where=NOT_RETIRED,
            postgresql_where=NOT_RETIRED,
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    name: str
    address: str
    port: int = 22
    ssh_user: str
    key_reference: str | None = None
    sealed_key: str | None = None
    host_keys: list[str] = Field(default_factory=list, sa_type=Json)
    region: str = Field(index=True)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=Json)
    state: State = Field(default=State.NEW, sa_type=EnumText(State), index=True)
    state_since: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    cordoned: bool = False
    failed_step: str | None = None
    failed_reason: str | None = None
    facts: dict[str, Any] | None = Field(default=None, sa_type=Json)
    reclaim_policy: ReclaimPolicy = Field(default=ReclaimPolicy.CLEAN, sa_type=EnumText(ReclaimPolicy))
    drains_to: DrainsTo | None = Field(default=None, sa_type=EnumText(DrainsTo))
    # Whether the last check of its health lets it be lent, and is not too old.
    health_current: bool = True
    health_verdict: Verdict | None = Field(default=None, sa_type=EnumText(Verdict))
    health_checked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    health_tried_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    gpus_reset_at: float | None = None
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class HostPeriod(SQLModel, table=True):
    """One stay of a host in a state: `[started_at, ended_at)`. The capacity report adds these up."""

    __tablename__ = "host_periods"
    __table_args__ = (
        sa.Index(
            "uq_host_periods_open",
            "host_id",
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        sa.CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name="ends_after_start"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    host_id: UUID = Field(foreign_key="hosts.id", index=True)
    state: State = Field(sa_type=EnumText(State))
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Gpu(SQLModel, table=True):
    """`held_by` is the allocation that holds it now.

    `schedulable` follows the host's state, its cordon and the GPU's health.
    """

    __tablename__ = "gpus"
    __table_args__ = (
        sa.Index("uq_gpus_uuid", "uuid", unique=True, sqlite_where=NOT_REMOVED, postgresql_where=NOT_REMOVED),
        sa.Index(
            "ix_gpus_free",
            "host_lent",
            "host_id",
            "index",
            sqlite_where=FREE_SQLITE,
            postgresql_where=FREE,
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    host_id: UUID = Field(foreign_key="hosts.id", index=True)
    index: int
    uuid: str
    model: str
    architecture: str | None = None
    memory_mib: int
    pci_address: str | None = None
    serial: str | None = None
    vbios: str | None = None
    numa_node: int | None = None
    nvlink_domain: str | None = None
    mig_mode: str | None = None
    region: str
    health: Health = Field(default=Health.UNKNOWN, sa_type=EnumText(Health))
    health_reasons: list[str] = Field(default_factory=list, sa_type=Json)
    health_verdict: Verdict | None = Field(default=None, sa_type=EnumText(Verdict))
    health_action: Action | None = Field(default=None, sa_type=EnumText(Action))
    health_level: int | None = None
    health_checked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    schedulable: bool = False
    held_by: UUID | None = Field(default=None, index=True)
    # The planned end of the hold and of the clean after it; and from when it is reserved.
    held_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    booked_from: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # Whether its host is lent already: partly used hosts are filled first.
    host_lent: bool = False
    free_since: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    enrolled_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    removed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?$")]
SshUser = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
KeyReference = Annotated[str, StringConstraints(pattern=r"^/[^\n]{1,1000}$")]
HostKey = Annotated[str, StringConstraints(pattern=r"^(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/=]+( \S+)?$")]


class GpuRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    host_id: UUID
    host: str
    index: int
    uuid: str
    model: str
    architecture: str | None
    memory_mib: int
    pci_address: str | None
    serial: str | None
    vbios: str | None
    numa_node: int | None
    nvlink_domain: str | None
    mig_mode: str | None
    region: str
    health: Health
    health_reasons: list[str]
    health_verdict: Verdict | None = Member(description="the worst of the last check")
    health_action: Action | None = Member(description="what to do about it")
    health_level: int | None = Member(description="a sick GPU comes back by a check of this level or more")
    health_checked_at: datetime | None
    schedulable: bool = Member(description="may be lent when nobody holds it")
    held_by: UUID | None = Member(description="the allocation that holds it now")


class HostRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    address: str
    port: int
    region: str
    labels: dict[str, str]
    state: State
    state_since: datetime
    state_meaning: str
    cordoned: bool
    failed_step: str | None
    failed_reason: str | None
    health_verdict: Verdict | None
    health_checked_at: datetime | None
    health_current: bool = Member(description="its last health check passed and is not too old: may be lent")
    gpus: int
    gpus_held: int
    gpu_models: list[str]
    created_at: datetime


class HostDetail(HostRead):
    ssh_user: str
    key_reference: str | None
    host_keys: list[str]
    reclaim_policy: ReclaimPolicy
    drains_to: DrainsTo | None
    facts: dict[str, Any] | None
    gpu_list: list[GpuRead]


class InventoryHost(BaseModel):
    id: UUID
    name: str
    address: str
    port: int
    user: str
    key_reference: str | None
    host_keys: list[str]
    state: State
    cordoned: bool
    region: str
    labels: dict[str, str]
    models: list[str]
    workspaces: list[str]
    manifest: dict[str, Any] | None
    health: InventoryHealth


class Inventory(BaseModel):
    hosts: list[InventoryHost]


class ScrapeTarget(BaseModel):
    """An entry of Prometheus's HTTP service discovery; every label starts with `__meta_ironyard_`."""

    targets: list[str] = Member(description="`address:port`")
    labels: dict[str, str]
