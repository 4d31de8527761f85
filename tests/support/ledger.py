"""Puts hosts into the ledger without Ansible: through the same service calls that a playbook run ends in."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.access import Actor, system
from api.core.crypto import SecretBox
from api.core.db import Database
from api.core.operations import service as operations
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.models import Operation
from api.fleet import service as fleet
from api.fleet.lifecycle import Event
from api.fleet.models import Gpu, Host
from api.fleet.operations import finish_by_hand
from api.fleet.playbooks import Run
from api.fleet.reports import PlayReport
from api.fleet.requests import HostCreate
from api.identity import service as identity
from api.identity.models import User
from api.workspaces import service as workspaces
from api.workspaces.models import WorkspaceCreate

H100 = "NVIDIA H100 80GB HBM3"
SYSTEM = system("tests")


def facts(gpus: int, *, model: str = H100, memory_mib: int = 81559) -> dict[str, Any]:
    domain = str(uuid.uuid4())
    return {
        "gpus": [
            {
                "index": index,
                "uuid": f"GPU-{uuid.uuid4()}",
                "model": model,
                "memory_mib": memory_mib,
                "nvlink_domain": domain,
                "health": "ok",
            }
            for index in range(gpus)
        ]
    }


def verdicts(
    *checks: dict[str, Any], gpus: Iterable[str] = (), level: int = 2, **more: Any
) -> dict[str, Any]:
    """A health report in which the host and these GPUs are well, and what else is said."""
    well = [verdict(scope, name="ecc") for scope in ("host", *gpus)]
    return {"level": level, "checks": [*well, *checks], **more}


def verdict(scope: str, verdict: str = "PASS", action: str = "none", name: str = "ecc") -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "scope": scope, "action": action, "detail": "as read"}


def report(playbook: str, **parts: Any) -> PlayReport:
    if playbook in ("reclaim", "verify"):
        parts.setdefault("health", verdicts())
    return PlayReport(playbook=playbook, version="test", ok=True, **parts)


def first_administrator(database: Database, *, quota: int = 8) -> tuple[User, str]:
    with database.transaction() as tx:
        made = identity.bootstrap(tx, "admin@ironyard.local", lifetime=3600)
        assert made is not None
        actor = Actor(made[0].email, made[0].role, made[0].id)
        tx.flush()
        workspaces.create(tx, actor, WorkspaceCreate(slug="default", name="Default"), default_quota=quota)
    return made


def register(database: Database, box: SecretBox, name: str, address: str, **details: Any) -> UUID:
    asked = HostCreate(
        name=name, address=address, key_reference="/nowhere/key", **({"region": "test"} | details)
    )
    with database.transaction() as tx:
        return fleet.register(tx, SYSTEM, asked, box).id


def idle_host(
    database: Database,
    box: SecretBox,
    name: str,
    address: str,
    *,
    gpus: int = 8,
    model: str = H100,
    **more: Any,
) -> UUID:
    """A host that went through enroll and its first clean."""
    host_id = register(database, box, name, address, **more)
    with database.transaction() as tx:
        fleet.fire(tx, SYSTEM, host_id, Event.ENROLL)
        fleet.start(tx, SYSTEM, tx.get_one(Host, host_id), fleet.ENROLL)
    finish(database, host_id, report("enroll", facts=facts(gpus, model=model), manifest={"of": name}))
    finish(database, host_id, report("reclaim"))
    return host_id


def finish(database: Database, host_id: UUID, made: PlayReport | None = None, **run: Any) -> None:
    """End the host's open operation as a worker would after its playbook."""
    event = run.pop("event", OperationEvent.SUCCEED)
    with database.transaction() as tx:
        if made is not None and made.health is not None:
            _name_gpus(tx, host_id, made.health)
        operation = tx.execute(
            sa.select(Operation).where(Operation.subject_id == host_id, Operation.ended_at.is_(None))
        ).scalar_one()
        if operation.worker is None:
            operations.claim(tx, operation.id, "tests")
            tx.flush()
        finish_by_hand(tx, SYSTEM, operation, Run(event, report=made, **run))


def _name_gpus(tx: Session, host_id: UUID, health: dict[str, Any]) -> None:
    """A check names every GPU: those of which the test says nothing are well."""
    named = {one["scope"] for one in health["checks"]}
    uuids = tx.execute(sa.select(Gpu.uuid).where(Gpu.host_id == host_id, Gpu.removed_at.is_(None))).scalars()
    health["checks"] += [verdict(uuid) for uuid in uuids if uuid not in named]
