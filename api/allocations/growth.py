"""Making a change of what is held: another end, or more GPUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations import backfill, claims, expiry, service, spending, usage, window
from api.allocations.approval_models import AllocationChange, Kind
from api.allocations.lifecycle import Event, advance
from api.allocations.limits import check_quota
from api.allocations.models import Allocation
from api.allocations.window import Window
from api.core import audit, clock
from api.core.access import Actor
from api.core.db import insert_together, table
from api.fleet import placement
from api.fleet.models import Gpu, Host
from api.fleet.placement import Taken, Wanted
from api.settings import Settings
from api.workspaces.models import ALL_MODELS
from api.workspaces.service import Tenant

GPU, HOST = table(Gpu), table(Host)


def make(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    change: AllocationChange,
    settings: Settings,
) -> None:
    """Raises what an extension or a claim raises; then nothing is changed."""
    if change.kind is Kind.GROW:
        grow(tx, actor, tenant, allocation, change.asked["gpus"], change.asked["group"], settings)
    else:
        expiry.extend(tx, actor, allocation.id, datetime.fromisoformat(change.asked["expires_at"]), settings)


def grow(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    gpus: int,
    group: int,
    settings: Settings,
) -> None:
    """More GPUs like those of one group of the claim, until the same end, all or none.

    The allocation is active and locked, and the tenant has its holder's limits. Raises QuotaExceeded,
    CapacityExceeded, BudgetExceeded, NoRate.
    """
    allocation.state = advance(allocation.state, Event.GROW)
    wanted = _beside(tx, allocation, group, gpus)
    span = _rest(allocation, settings)
    limits = usage.now(tx, tenant, allocation.requested_by_id, span, allocation.id)
    later = limits is not tenant
    check_quota(limits, Counter({ALL_MODELS: gpus}), later=later)
    heads = backfill.before(tx, allocation, settings)
    with (
        spending.tracked(tx, tenant, allocation),
        backfill.considerately(tx, allocation, span, heads, settings) as hosts,
    ):
        taken, since, _ = placement.take(
            tx, actor, [wanted], allocation.id, span.starts_at, until=span.free_at
        )
        models = Counter(gpu.model for gpu in taken)
        check_quota(limits, models + Counter({ALL_MODELS: len(taken)}), later=later)
        _add(tx, actor, allocation, group, taken, since, settings)
        hosts.update(gpu.host_id for gpu in taken)


def _rest(allocation: Allocation, settings: Settings) -> Window:
    """From now until its end."""
    expires_at, ends_at = service.begun(allocation.expires_at), service.begun(allocation.ends_at)
    return Window(clock.now(), expires_at, ends_at, window.free_at(ends_at, settings))


def _beside(tx: Session, allocation: Allocation, group: int, gpus: int) -> Wanted:
    """What is together stays so: on the same host, or in the same NVLink domain, as the group's others.

    Groups of whole hosts grow by whole hosts.
    """
    wanted = replace(claims.wanted_groups(allocation.wanted)[group], count=gpus)
    if wanted.exclusive_host or not wanted.together:
        return wanted
    held = sa.select(GPU.c.host_id, GPU.c.nvlink_domain, HOST.c.name).join(HOST, HOST.c.id == GPU.c.host_id)
    rows = tx.execute(held.where(GPU.c.held_by == allocation.id)).all()
    names = _hosts_of(allocation, group)
    mine = [row for row in rows if row.name in names] or rows
    domains: set[str] = {row.nvlink_domain for row in mine if row.nvlink_domain}
    hosts: set[UUID] = {row.host_id for row in mine}
    return replace(
        wanted,
        on_hosts=() if wanted.spans_hosts else tuple(sorted(hosts)),
        in_domains=tuple(sorted(domains)) if wanted.nvlink else (),
    )


def _hosts_of(allocation: Allocation, group: int) -> set[str]:
    """The names of the hosts that placement gave the group, where it has said so."""
    told = (allocation.why or {}).get("hosts", [])
    return {one["host"] for one in told if one.get("group", 1) == group + 1}


def _add(
    tx: Session,
    actor: Actor,
    allocation: Allocation,
    group: int,
    taken: list[Taken],
    since: datetime,
    settings: Settings,
) -> None:
    prices = claims.prices(tx, taken, since)
    before = {"gpus": allocation.wanted["gpus"]}
    allocation.wanted = _more(allocation.wanted, group, len(taken))
    known = [rate for rate in prices if rate is not None]
    if known:
        allocation.price_per_hour = (allocation.price_per_hour or Decimal(0)) + sum(known, Decimal(0))
        allocation.currency = settings.currency
    tx.flush()
    after = {"gpus": allocation.wanted["gpus"], "more": [gpu.uuid for gpu in taken]}
    event = audit.row(actor, "allocation.grown", allocation.id, before=before, after=after)
    rows = claims.hold_rows(allocation, taken, prices, since)
    insert_together(tx, (claims.HOLDS, rows), (audit.EVENTS, [event]))


def _more(wanted: dict[str, Any], group: int, gpus: int) -> dict[str, Any]:
    """What is asked for all in all, so that it tells what is held."""
    made = wanted | {"gpus": wanted["gpus"] + gpus}
    if "groups" in wanted:
        made["groups"] = [
            one | {"gpus": one["gpus"] + gpus} if number == group else one
            for number, one in enumerate(wanted["groups"])
        ]
    return made
