"""The ledger at one moment, as the facade tells it."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

PATH = "/api/v1/tenancy"
PATIENCE = 30  # seconds
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
Role = Literal["owner", "admin", "member", "viewer"]


class Document(BaseModel):
    """A later facade may say more; what is read here has to be there."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Member(Document):
    email: str
    role: Role


class Quota(Document):
    """GPUs at once, of all models together and of one model."""

    gpus: int = Field(ge=0)
    models: dict[str, int]

    def of(self, model: str) -> int:
        """How many GPUs of a model the workspace may hold."""
        return min(self.gpus, self.models.get(model, self.gpus))


class WorkspaceRecord(Document):
    id: UUID
    slug: Slug
    name: str
    members: list[Member]
    quota: Quota


class HostRecord(Document):
    name: str
    state: str
    region: str
    models: list[str]
    gpus: int
    workspaces: list[str]


class Snapshot(Document):
    workspaces: list[WorkspaceRecord]
    hosts: list[HostRecord]

    def models(self, workspace: WorkspaceRecord) -> list[str]:
        """The GPU models that a workspace may ask for: those of the fleet and of its own quota."""
        return sorted({model for host in self.hosts for model in host.models} | set(workspace.quota.models))


class FacadeError(Exception):
    """The facade did not tell; the sentence says why."""


def fetch(url: str, token: str) -> Snapshot:
    """Read the ledger over REST. Raises FacadeError."""
    address = url.rstrip("/") + PATH
    asked = urllib.request.Request(  # noqa: S310 - the settings allow http and https only
        address, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE, context=_trust(address)) as answer:  # noqa: S310
            return Snapshot.model_validate_json(answer.read())
    except urllib.error.HTTPError as error:
        raise FacadeError(f"{address} answered {error.code}: {_detail(error)}") from error
    except (OSError, urllib.error.URLError) as error:
        raise FacadeError(f"{address} cannot be reached: {getattr(error, 'reason', error)}") from error
    except ValidationError as error:
        raise FacadeError(f"{address} answered something else: {error.errors()[0]['msg']}") from error


def _trust(address: str) -> ssl.SSLContext | None:
    return ssl.create_default_context() if address.startswith("https://") else None


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return error.reason
