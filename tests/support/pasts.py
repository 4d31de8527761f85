"""A small fleet with a random past, for claims that are tried on it and never committed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from api.allocations import approvals, budgeting, claims, service
from api.allocations.models import ClaimRequest
from api.core import clock
from api.core.access import Actor
from api.core.db import table
from api.fleet.models import Gpu, Host
from api.providers import rates
from api.providers.models import RateSet
from api.settings import Settings
from api.workspaces import organisations, quota_setting, scopes
from api.workspaces import service as workspaces
from api.workspaces.limit_models import BudgetSet, LimitsSet, SoftLimits
from api.workspaces.models import Approval
from api.workspaces.scopes import Scoped

SIZES = (1, 2, 2, 4, 4)
KINDS = (("H100", 81559, "north"), ("H100", 81559, "south"), ("A100", 40960, "north"))
SLUGS = ("red", "blue")
GPUS, HOSTS = table(Gpu), table(Host)


@dataclass
class Bench:
    """One transaction that is never committed, on a furnished database."""

    tx: Session
    settings: Settings
    people: dict[str, Actor]

    @property
    def administrator(self) -> Actor:
        return self.people["administrator"]

    def scope(self, slug: str, level: str) -> Scoped:
        workspace = workspaces.get(self.tx, self.administrator, slug)
        found = scopes.of_workspace(workspace)
        if level == "organisation":
            own = organisations.get(self.tx, self.administrator, workspace.organisation_id)
            found = scopes.of_organisation(self.tx, own)
        elif level == "member":
            user_id = self.people["member"].user_id
            assert user_id is not None
            found = scopes.of_member(self.tx, self.administrator, workspace, user_id)
        return scopes.lock(self.tx, found)


hours = st.integers(1, 60)
slugs, levels = st.sampled_from(SLUGS), st.sampled_from(("workspace", "workspace", "organisation", "member"))
models = st.sampled_from((None, None, "H100", "A100"))
limits = st.integers(0, 12)
held = st.tuples(
    st.just("hold"), slugs, st.integers(1, 4), models, st.sampled_from(("pack", "spread")), hours
)
common = st.one_of(
    held,
    held,
    st.tuples(st.just("release"), st.integers(0, 5)),
    st.tuples(st.just("rate"), models, st.sampled_from((None, "north")), st.integers(0, 9_000_000)),
    st.tuples(st.just("quota"), slugs, levels, limits, st.none() | limits, st.none()),
    st.tuples(st.just("reserve"), st.just("blue"), st.integers(1, 4), models, hours),
)
rare = st.one_of(
    st.tuples(st.just("reserve"), st.just("red"), st.integers(1, 4), models, hours),
    st.tuples(st.just("quota"), slugs, levels, st.just(12), st.none(), st.integers(0, 12)),
    st.tuples(st.just("budget"), slugs, levels, st.integers(0, 2000)),
    st.tuples(st.just("approval"), st.sampled_from(("", "H100"))),
    st.tuples(st.just("queue"), slugs, st.integers(4, 12), models),
)
fleets = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 4)), min_size=len(SIZES), max_size=len(SIZES)
)
pasts = st.tuples(
    st.lists(common, max_size=7), st.one_of(st.just([]), st.just([]), st.lists(rare, max_size=2))
)


def furnish(bench: Bench, fleet: list[tuple[tuple[str, int, str], int]]) -> None:
    ids = bench.tx.execute(sa.select(HOSTS.c.id).order_by(HOSTS.c.name)).scalars()
    for host_id, ((model, memory, region), well) in zip(ids, fleet, strict=True):
        of_host = sa.update(GPUS).where(GPUS.c.host_id == host_id)
        bench.tx.execute(of_host.values(model=model, memory_mib=memory, region=region, schedulable=well > 0))


def happen(bench: Bench, act: tuple[Any, ...], made: list[UUID]) -> None:
    tx, administrator = bench.tx, bench.administrator
    match act:
        case ("hold", slug, gpus, model, placement, length):
            made.append(ask(bench, slug, gpus, model, placement=placement, duration_seconds=length * 3600))
        case ("reserve", slug, gpus, model, ahead):
            ask(
                bench,
                slug,
                gpus,
                model,
                not_before=clock.now() + timedelta(hours=ahead),
                duration_seconds=3600,
            )
        case ("queue", slug, gpus, model):
            ask(bench, slug, gpus, model, wait=True, duration_seconds=3600)
        case ("release", pick) if made:
            service.release(tx, administrator, made.pop(pick % len(made)))
        case ("rate", model, region, millionths):
            price = RateSet(model=model, region=region, per_gpu_hour=Decimal(millionths).scaleb(-6))
            rates.append(tx, administrator, price, bench.settings.currency)
        case ("quota", slug, level, gpus, of_model, soft):
            of_models = {} if of_model is None else {"H100": of_model}
            asked = LimitsSet(gpus=gpus, models=of_models, soft=SoftLimits(gpus=soft))
            quota_setting.set_limits(tx, administrator, bench.scope(slug, level), asked)
        case ("budget", slug, level, amount):
            budgeting.set_budgets(
                tx, administrator, bench.scope(slug, level), BudgetSet(gpu_hours=Decimal(amount))
            )
        case ("approval", model):
            approvals.set_rule(tx, administrator, model, Approval.OPERATOR)


def ask(bench: Bench, slug: str, gpus: int, model: str | None, **more: Any) -> UUID:
    asked = ClaimRequest(workspace=slug, gpus=gpus, model=model, **more)
    return claims.claim(bench.tx, bench.administrator, asked, bench.settings).allocation.id
