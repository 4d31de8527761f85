"""Limits and what they depend on: quotas, budgets, prices, members, organisations and time zones."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import strategies as st
from hypothesis.stateful import rule
from sqlalchemy.orm import Session

from api.allocations import budgeting, workspace_changes
from api.providers import rates
from api.providers.models import RateSet
from api.workspaces import organisations, quota_setting, scopes
from api.workspaces import service as workspaces
from api.workspaces.limit_models import BudgetSet, LimitsSet
from api.workspaces.models import WorkspaceChange, WorkspaceRole
from api.workspaces.scopes import Scoped
from tests.machine.base import WHO, Base
from tests.machine.stage import MODELS, ORGANISATIONS, SLUGS

SCOPES = ("workspace", "workspace", "organisation", "owner", "plain")
BUDGETS = st.none() | st.sampled_from((0, 24, 100, 300, 1000, 5000, 20000))
ZONES = ("UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/Los_Angeles")


class Limiting(Base):
    def scope(self, tx: Session, slug: str, scope: str) -> Scoped:
        """The workspace, its organisation or one of its members, locked."""
        administrator = self.stage.administrator
        workspace = workspaces.get(tx, administrator, slug)
        if scope == "workspace":
            return scopes.lock(tx, scopes.of_workspace(workspace))
        if scope == "organisation":
            own = organisations.get(tx, administrator, workspace.organisation_id)
            return scopes.lock(tx, scopes.of_organisation(tx, own))
        user_id = self.actor(scope, slug).user_id
        assert user_id is not None
        return scopes.lock(tx, scopes.of_member(tx, administrator, workspace, user_id))

    @rule(
        slug=st.sampled_from(SLUGS),
        scope=st.sampled_from(SCOPES),
        gpus=st.integers(0, 12),
        of_model=st.none() | st.integers(0, 6),
    )
    def change_quota(self, slug: str, scope: str, gpus: int, of_model: int | None) -> None:
        models = {} if of_model is None else {MODELS[0]: of_model}
        more = gpus + 4 if scope == "organisation" else gpus
        with self.transaction() as tx:
            scoped = self.scope(tx, slug, scope)
            asked = LimitsSet(gpus=more, models=models)
            quota_setting.set_limits(tx, self.stage.administrator, scoped, asked)

    @rule(slug=st.sampled_from(SLUGS), scope=st.sampled_from(SCOPES), gpu_hours=BUDGETS, money=BUDGETS)
    def change_budget(self, slug: str, scope: str, gpu_hours: int | None, money: int | None) -> None:
        asked = BudgetSet(gpu_hours=gpu_hours, money=money)
        with self.transaction() as tx:
            budgeting.set_budgets(tx, self.stage.administrator, self.scope(tx, slug, scope), asked)

    @rule(
        slug=st.sampled_from(SLUGS),
        organisation=st.sampled_from((*ORGANISATIONS, None, None)),
        zone=st.sampled_from((*ZONES, None, None, None)),
    )
    def change_workspace(self, slug: str, organisation: str | None, zone: str | None) -> None:
        asked = WorkspaceChange(organisation=organisation, time_zone=zone)
        with self.transaction() as tx:
            found = workspaces.get(tx, self.stage.administrator, slug)
            workspace_changes.change(tx, self.stage.administrator, found.id, asked)

    @rule(slug=st.sampled_from(SLUGS), who=st.sampled_from(WHO[1:]), role=st.sampled_from(WorkspaceRole))
    def change_member(self, slug: str, who: str, role: WorkspaceRole) -> None:
        """A viewer's place is taken away altogether."""
        administrator, user_id = self.stage.administrator, self.actor(who, slug).user_id
        assert user_id is not None
        with self.transaction() as tx:
            found = workspaces.get(tx, administrator, slug)
            if role is WorkspaceRole.VIEWER:
                workspaces.remove_member(tx, administrator, found.id, user_id)
            else:
                kept = WorkspaceRole.OWNER if who == "owner" else WorkspaceRole.MEMBER
                workspaces.set_member(tx, administrator, found.id, user_id, kept)

    @rule(millionths=st.integers(0, 5_000_000), model=st.sampled_from((*MODELS, None)))
    def change_price(self, millionths: int, model: str | None) -> None:
        asked = RateSet(per_gpu_hour=Decimal(millionths).scaleb(-6), model=model)
        with self.transaction() as tx:
            rates.append(tx, self.stage.administrator, asked, self.stage.settings.currency)
