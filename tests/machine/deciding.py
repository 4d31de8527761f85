"""Approval, changes of what is held, and handing it over."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import rule

from api.allocations import approvals, changes, decisions, transfer, workspace_changes
from api.allocations.approval_models import AllocationChange, ApprovalRule, ChangeRequest, Kind
from api.allocations.models import ClaimRequest
from api.core import clock
from api.core.db import table
from api.workspaces import service as workspaces
from api.workspaces.models import Approval, Workspace, WorkspaceChange
from tests.machine.base import WHO, Base
from tests.machine.stage import MODELS, SLUGS

CHANGES, RULES, WORKSPACES = table(AllocationChange), table(ApprovalRule), table(Workspace)


class Deciding(Base):
    @rule(
        slug=st.sampled_from((*SLUGS, None, None)),
        model=st.sampled_from(("", *MODELS)),
        approver=st.sampled_from((*Approval, Approval.NONE)),
    )
    def change_who_approves(self, slug: str | None, model: str, approver: Approval) -> None:
        """Of a workspace's claims or, where none is named, of a model's."""
        administrator = self.stage.administrator
        with self.transaction() as tx:
            if slug is not None:
                found = workspaces.get(tx, administrator, slug)
                asked = WorkspaceChange(approval=approver)
                workspace_changes.change(tx, administrator, found.id, asked)
            elif approver is Approval.NONE:
                approvals.remove_rule(tx, administrator, model)
            else:
                approvals.set_rule(tx, administrator, model, approver)

    def must_ask(self, slug: str, asked: ClaimRequest) -> bool:
        """Whether somebody who decides nothing may not hold this without approval."""
        with self.stage.database.snapshot() as tx:
            own = sa.select(WORKSPACES.c.approval).where(WORKSPACES.c.slug == slug)
            if tx.execute(own).scalar_one() != Approval.NONE:
                return True
            ruled = set(tx.execute(sa.select(RULES.c.model)).scalars())
        models = {group.model for group in asked.all_groups()}
        return bool(ruled) and (None in models or "" in ruled or not ruled.isdisjoint(models))

    @rule(
        pick=st.integers(0, 50),
        who=st.sampled_from(WHO),
        slug=st.sampled_from(SLUGS),
        agreed=st.integers(0, 3),
        crash=st.integers(0, 9),
    )
    def decide_about_a_claim(self, pick: int, who: str, slug: str, agreed: int, crash: int) -> None:
        found = self.one_of(pick, "requested")
        if found is None:
            return
        with self.transaction(crash=crash == 1) as tx:
            if agreed:
                decisions.approve(tx, self.actor(who, slug), found, self.stage.settings)
            else:
                decisions.deny(tx, self.actor(who, slug), found, reason="the test says so")

    @rule(
        pick=st.integers(0, 50),
        who=st.sampled_from(WHO),
        slug=st.sampled_from(SLUGS),
        gpus=st.none() | st.integers(1, 3),
        group=st.sampled_from((0, 0, 0, 1)),
        hours=st.integers(-12, 96),
        crash=st.integers(0, 9),
    )
    def ask_for_a_change(
        self, pick: int, who: str, slug: str, gpus: int | None, group: int, hours: int, crash: int
    ) -> None:
        found = self.one_of(pick, "active", "active", "reserved")
        if found is None:
            return
        end = clock.now() + timedelta(hours=hours)
        asked = (
            ChangeRequest(kind=Kind.EXTEND, expires_at=end)
            if gpus is None
            else ChangeRequest(kind=Kind.GROW, gpus=gpus, group=group)
        )
        with self.transaction(crash=crash == 1) as tx:
            changes.ask(tx, self.actor(who, slug), found, asked, self.stage.settings)

    @rule(
        pick=st.integers(0, 50),
        who=st.sampled_from(WHO),
        slug=st.sampled_from(SLUGS),
        verdict=st.sampled_from(("approve", "approve", "approve", "deny", "cancel")),
        crash=st.integers(0, 9),
    )
    def decide_about_a_change(self, pick: int, who: str, slug: str, verdict: str, crash: int) -> None:
        with self.stage.database.snapshot() as tx:
            waiting = sa.select(CHANGES.c.allocation_id, CHANGES.c.id).where(CHANGES.c.state == "requested")
            rows = tx.execute(waiting.order_by(CHANGES.c.id)).all()
        if rows:
            self.decide(rows[pick % len(rows)].tuple(), who, slug, verdict, crash=crash == 1)

    def decide(self, change: tuple[UUID, UUID], who: str, slug: str, verdict: str, *, crash: bool) -> None:
        actor = self.actor(who, slug)
        with self.transaction(crash=crash) as tx:
            if verdict == "approve":
                changes.approve(tx, actor, *change, self.stage.settings)
            elif verdict == "deny":
                changes.deny(tx, actor, *change, reason="the test says so")
            else:
                changes.cancel(tx, actor, *change)

    @rule(
        pick=st.integers(0, 50),
        who=st.sampled_from(("operator", "operator", "plain", "owner")),
        to=st.sampled_from(SLUGS),
        crash=st.integers(0, 9),
    )
    def hand_over(self, pick: int, who: str, to: str, crash: int) -> None:
        found = self.one_of(pick, "active")
        if found is not None:
            with self.transaction(crash=crash == 1) as tx:
                transfer.transfer(tx, self.actor(who, to), found, to, reason="the test says so")
