"""Service discovery for Prometheus: every enrolled host as a target of an exporter."""

from __future__ import annotations

import ipaddress
import re
from itertools import groupby
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.models import Hold
from api.core.errors import NotFound
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, Host, ScrapeTarget
from api.settings import Settings
from api.workspaces.models import Workspace

META = "__meta_ironyard_"
NOT_IN_A_LABEL_NAME = re.compile(r"[^a-zA-Z0-9_]")
EXPORTERS = ("node", "dcgm")


def port_of(settings: Settings, exporter: str) -> int:
    """Raises NotFound for an exporter that hosts do not have."""
    if exporter not in EXPORTERS:
        raise NotFound(f"There is no exporter {exporter}; there are {' and '.join(EXPORTERS)}.")
    port: int = getattr(settings, f"{exporter}_exporter_port")
    return port


def targets(tx: Session, port: int) -> list[ScrapeTarget]:
    """Every host whose GPUs are in the ledger, by name.

    A host's first successful enrollment puts its GPUs there, retirement takes them away.
    """
    columns: list[Any] = [
        *(Host.id, Host.name, Host.address, Host.state, Host.region, Host.labels, Gpu.model),
        col(Workspace.slug).label("workspace"),
        sa.func.count().label("gpus"),
    ]
    statement = (
        sa.select(*columns)
        .join(Gpu, sa.and_(col(Gpu.host_id) == col(Host.id), col(Gpu.removed_at).is_(None)))
        .outerjoin(Hold, sa.and_(col(Hold.gpu_id) == col(Gpu.id), col(Hold.ended_at).is_(None)))
        .outerjoin(Workspace, col(Workspace.id) == col(Hold.workspace_id))
        .where(col(Host.state).not_in((State.NEW, State.RETIRED)))
        .group_by(col(Host.id), col(Gpu.model), col(Workspace.slug))
        .order_by(col(Host.name), col(Host.id))
    )
    rows = tx.execute(statement).all()
    return [_target(list(of_host), port) for _, of_host in groupby(rows, key=_host_id)]


def _host_id(row: Any) -> UUID:
    found: UUID = row.id
    return found


def _target(rows: list[Any], port: int) -> ScrapeTarget:
    host = rows[0]
    found = {
        "host": host.name,
        "host_id": str(host.id),
        "state": str(host.state),
        "region": host.region,
        "models": ",".join(sorted({row.model for row in rows})),
        "gpus": str(sum(row.gpus for row in rows)),
        "workspaces": ",".join(sorted({row.workspace for row in rows if row.workspace})),
    }
    own = {f"label_{NOT_IN_A_LABEL_NAME.sub('_', name)}": text for name, text in sorted(host.labels.items())}
    labels = {META + name: text for name, text in (own | found).items()}
    return ScrapeTarget(targets=[socket_address(host.address, port)], labels=labels)


def socket_address(address: str, port: int) -> str:
    """`address:port`, an IPv6 address in brackets."""
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:  # a name
        return f"{address}:{port}"
    return f"[{address}]:{port}" if version == 6 else f"{address}:{port}"  # noqa: PLR2004
