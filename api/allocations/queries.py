"""Reads of the ledger: allocations with their GPUs, holds in a window, the inventory of the playbooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.models import Allocation, AllocationRead, HeldGpu, Hold
from api.fleet import health, proofs
from api.fleet import queries as fleet
from api.fleet.health_models import InventoryHealth
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, Host, Inventory, InventoryHost
from api.workspaces import service as workspaces


def read(
    allocation: Allocation, workspace: str, gpus: list[HeldGpu], warnings: Sequence[str] = ()
) -> AllocationRead:
    return AllocationRead(
        id=allocation.id,
        workspace_id=allocation.workspace_id,
        workspace=workspace,
        requested_by=allocation.requested_by,
        state=allocation.state,
        wanted=allocation.wanted,
        gpus=gpus,
        why=allocation.why,
        warnings=list(warnings),
        reason=allocation.reason,
        decided_by=allocation.decided_by,
        decided_at=allocation.decided_at,
        priority=allocation.priority,
        preemptible=allocation.preemptible,
        preempt_at=allocation.preempt_at,
        price_per_hour=allocation.price_per_hour,
        currency=allocation.currency,
        created_at=allocation.created_at,
        not_before=allocation.not_before,
        started_at=allocation.started_at,
        expires_at=allocation.expires_at,
        ends_at=allocation.ends_at,
        ended_at=allocation.ended_at,
    )


def with_gpus(tx: Session, allocations: Sequence[Allocation]) -> list[AllocationRead]:
    """Each allocation with the GPUs that it holds or held."""
    slugs = workspaces.slugs(tx, {row.workspace_id for row in allocations})
    holds = _holds(tx, [row.id for row in allocations])
    return [read(row, slugs[row.workspace_id], holds[row.id]) for row in allocations]


def _holds(tx: Session, allocation_ids: list[UUID]) -> dict[UUID, list[HeldGpu]]:
    rows = list(
        tx.execute(sa.select(Hold).where(col(Hold.allocation_id).in_(allocation_ids)).order_by(col(Hold.id)))
        .scalars()
        .all()
    )
    gpus = fleet.gpus_by_id(tx, [row.gpu_id for row in rows])
    names = fleet.host_names(tx, {row.host_id for row in rows})
    found: dict[UUID, list[HeldGpu]] = defaultdict(list)
    # Once each, though a transfer has closed one hold and begun another.
    for row in {(row.allocation_id, row.gpu_id): row for row in rows}.values():
        gpu = gpus[row.gpu_id]
        found[row.allocation_id].append(
            HeldGpu(
                gpu_id=gpu.id,
                uuid=gpu.uuid,
                model=row.model,
                memory_mib=gpu.memory_mib,
                index=gpu.index,
                host_id=row.host_id,
                host=names[row.host_id],
            )
        )
    return found


def holds_between(
    tx: Session, start: datetime, end: datetime, *, host_id: UUID | None = None
) -> list[tuple[Hold, Allocation]]:
    """Holds that touch `[start, end)`, in the order in which they began, with their allocations."""
    statement = (
        sa.select(Hold, Allocation)
        .join(Allocation, col(Allocation.id) == col(Hold.allocation_id))
        .where(col(Hold.started_at) < end, sa.or_(col(Hold.ended_at).is_(None), col(Hold.ended_at) > start))
        .order_by(col(Hold.started_at), col(Hold.id))
    )
    if host_id is not None:
        statement = statement.where(col(Hold.host_id) == host_id)
    return [(hold, allocation) for hold, allocation in tx.execute(statement)]


def inventory(tx: Session) -> Inventory:
    """Every host that is not retired, as the inventory plugin wants it."""
    wanted = sa.select(Host).where(col(Host.state) != State.RETIRED).order_by(col(Host.name))
    hosts = list(tx.execute(wanted).scalars())
    models: dict[UUID, set[str]] = defaultdict(set)
    for host_id, model in tx.execute(
        sa.select(col(Gpu.host_id), col(Gpu.model)).where(col(Gpu.removed_at).is_(None)).distinct()
    ):
        models[host_id].add(model)
    holders = _holders(tx)
    manifests = proofs.manifests(tx)
    known = health.known_of(tx, hosts)
    return Inventory(
        hosts=[
            _inventory_host(host, models[host.id], holders[host.id], manifests.get(host.id), known[host.id])
            for host in hosts
        ]
    )


def _holders(tx: Session) -> dict[UUID, set[str]]:
    rows = list(
        tx.execute(
            sa.select(col(Hold.host_id), col(Hold.workspace_id))
            .where(col(Hold.ended_at).is_(None))
            .distinct()
        )
    )
    slugs = workspaces.slugs(tx, {row.workspace_id for row in rows})
    found: dict[UUID, set[str]] = defaultdict(set)
    for row in rows:
        found[row.host_id].add(slugs[row.workspace_id])
    return found


def _inventory_host(
    host: Host,
    models: Iterable[str],
    holders: Iterable[str],
    manifest: dict[str, Any] | None,
    known: InventoryHealth,
) -> InventoryHost:
    return InventoryHost(
        id=host.id,
        name=host.name,
        address=host.address,
        port=host.port,
        user=host.ssh_user,
        key_reference=host.key_reference,
        host_keys=host.host_keys,
        state=host.state,
        cordoned=host.cordoned,
        region=host.region,
        labels=host.labels,
        models=sorted(models),
        workspaces=sorted(holders),
        manifest=manifest,
        health=known,
    )
