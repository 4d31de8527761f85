"""Changing what the ledger says of a host: where it is, how it is reached, how it is cleaned."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, etags
from api.core.access import Actor
from api.core.crypto import SecretBox
from api.core.db import table
from api.core.errors import Exists, Invalid, WrongState
from api.core.operations import syncs
from api.fleet import service
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, Host, ReclaimPolicy
from api.fleet.requests import HostChange

REACHED_BY = ("address", "port", "ssh_user", "key_reference", "host_keys")
AT_REST = (State.NEW, State.IDLE, State.MAINTENANCE)
# What checks and runs find out of a host, without anybody changing it.
FOUND_OUT = frozenset(
    {"facts", "health_current", "health_verdict", "health_checked_at", "health_tried_at", "gpus_reset_at"}
)


def version(host: Host) -> str:
    """Another one whenever somebody changed the host or moved it to another state."""
    return etags.version(host, aside=FOUND_OUT)


def change(
    tx: Session, actor: Actor, host_id: UUID, asked: HostChange, box: SecretBox, *, reimages: bool
) -> Host:
    """Raises WrongState unless the host is at rest and not lent, Invalid for a policy that nothing serves."""
    host = service.lock(tx, host_id)
    service.refuse_held(tx, host)
    if host.state not in AT_REST:
        raise WrongState(f"{host.name} is {host.state}; wait until it is at rest.", state=host.state)
    if asked.reclaim_policy is ReclaimPolicy.REIMAGE and not reimages:
        raise Invalid("No IRONYARD_REIMAGE_COMMAND is set, so no host can be reimaged.")
    before = _shown(host)
    _refuse_twin(tx, host, asked)
    for name in ("region", "labels", "reclaim_policy", *REACHED_BY):
        value = getattr(asked, name)
        if value is not None:
            setattr(host, name, value)
    if asked.key is not None:
        host.sealed_key, host.key_reference = box.seal(asked.key.get_secret_value()), None
    elif asked.key_reference is not None:
        host.sealed_key = None
    tx.flush()
    if asked.region is not None:
        tx.execute(sa.update(table(Gpu)).where(col(Gpu.host_id) == host.id).values(region=host.region))
        syncs.changed(tx, actor)
    after = _shown(host) | ({"key": "replaced"} if asked.key is not None else {})
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    was = {name: before.get(name) for name in changed}
    audit.record(tx, actor, "host.changed", host.id, before=was, after=changed, reason=asked.reason)
    return host


def _shown(host: Host) -> dict[str, Any]:
    kept = {"region", "labels", "reclaim_policy", *REACHED_BY}
    return host.model_dump(include=kept, mode="json")


def _refuse_twin(tx: Session, host: Host, asked: HostChange) -> None:
    """Checked here for its sentence; the database refuses it as well."""
    address, port = asked.address or host.address, asked.port or host.port
    twin = tx.execute(
        sa.select(Host).where(
            col(Host.address) == address,
            col(Host.port) == port,
            col(Host.state) != State.RETIRED,
            col(Host.id) != host.id,
        )
    ).scalar_one_or_none()
    if twin is not None:
        raise Exists(f"Host {twin.name} ({address}:{port}) is enrolled already.", host_id=str(twin.id))
