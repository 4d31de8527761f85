"""What the ledger says of tenants and hosts, as a cluster needs to know it."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Member

from api.fleet.lifecycle import State
from api.workspaces.models import WorkspaceRole


class TenancyMember(BaseModel):
    email: str
    role: WorkspaceRole


class TenancyQuota(BaseModel):
    gpus: int = Member(description="GPUs at once, of all models together")
    models: dict[str, int] = Member(description="GPUs at once of one model; a model not named: no limit")


class TenancyWorkspace(BaseModel):
    id: UUID
    slug: str
    name: str
    members: list[TenancyMember] = Member(description="active users only")
    quota: TenancyQuota


class TenancyHost(BaseModel):
    name: str
    state: State
    region: str
    models: list[str]
    gpus: int
    workspaces: list[str] = Member(description="slugs of those that hold its GPUs")


class Tenancy(BaseModel):
    """One moment of the ledger, in a stable order: workspaces by slug, hosts that are not retired by name."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "workspaces": [
                    {
                        "id": "0199f2c4-5f70-7d20-9f0e-6a4f5c1b2e77",
                        "slug": "vision",
                        "name": "Vision research",
                        "members": [{"email": "ada@example.org", "role": "owner"}],
                        "quota": {"gpus": 16, "models": {"NVIDIA H100 80GB HBM3": 8}},
                    }
                ],
                "hosts": [
                    {
                        "name": "gpu-01",
                        "state": "allocated",
                        "region": "eu-west",
                        "models": ["NVIDIA H100 80GB HBM3"],
                        "gpus": 8,
                        "workspaces": ["vision"],
                    }
                ],
            }
        }
    )

    workspaces: list[TenancyWorkspace]
    hosts: list[TenancyHost]
