"""What playbooks hand over: the facts of a host, and the report of a run."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as Member

from api.core.texts import storable
from api.fleet.models import Health, HostKey


class GpuFacts(BaseModel):
    """One GPU as the discover role reports it."""

    index: int = Member(ge=0, le=255)
    uuid: Annotated[str, StringConstraints(pattern=r"^GPU-[0-9a-fA-F-]{36}$")]
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    architecture: str | None = None
    memory_mib: int = Member(gt=0)
    pci_address: str | None = None
    serial: str | None = None
    vbios: str | None = None
    numa_node: int | None = None
    nvlink_domain: str | None = None
    mig_mode: str | None = None
    health: Health
    health_reasons: list[str] = Member(default_factory=list)


class HostFacts(BaseModel):
    model_config = ConfigDict(extra="allow")

    gpus: list[GpuFacts] = Member(min_length=1, max_length=64)


class PlayReport(BaseModel):
    """What the last role of every playbook hands over.

    `digest` is the SHA-256 of the playbooks' files, `index` base64 of xz bytes.
    """

    model_config = ConfigDict(extra="allow")

    playbook: str
    version: str
    ok: bool
    failed_step: str | None = None
    failed_reason: str | None = None
    steps: list[dict[str, Any]] = Member(default_factory=list, max_length=20)
    facts: dict[str, Any] | None = None
    manifest: dict[str, Any] | None = None
    index: str | None = None
    digest: str | None = None
    health: dict[str, Any] | None = None
    host_keys: list[HostKey] | None = None
    findings: list[str] = Member(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, found: Any) -> Any:
        """A tenant names files as he likes; what he named must not keep the report from being stored."""
        return storable(found)


class PlayStats(BaseModel):
    ok: int = 0
    changed: int = 0
    failures: int = 0
    unreachable: int = 0
    skipped: int = 0
