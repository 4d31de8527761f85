"""HTTP of quotas, at every level."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.workspaces import organisations, quota_setting, quotas, scopes, service, versions
from api.workspaces.limit_models import LimitsSet, QuotaRead, QuotaSet
from api.workspaces.models import Quota
from api.workspaces.scopes import Scoped

router = APIRouter(prefix="/api/v1", tags=["quotas"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.WORKSPACES_READ)]
Claimer = Annotated[Actor, needs(Permission.ALLOCATIONS_CLAIM)]
Administrator = Annotated[Actor, needs(Permission.WORKSPACES_ADMINISTER)]
Reporter = Annotated[Actor, needs(Permission.REPORTS_READ)]
LOOKS = problems(401, 403, 404, 409, 422) | etags.NOT_MODIFIED
REFUSALS = problems(401, 403, 404, 409, 412, 422)
OF_WORKSPACE, OF_MEMBER, OF_ORGANISATION = (
    f"{scope}/quotas"
    for scope in (
        "/workspaces/{workspace}",
        "/workspaces/{workspace}/members/{user_id}",
        "/organisations/{organisation}",
    )
)


@router.get(OF_WORKSPACE, summary="See limits and what is used of them", responses=LOOKS)
def get_quotas(workspace: str, tx: Tx, actor: Reader) -> list[QuotaRead]:
    return _seen(tx, scopes.of_workspace(service.get(tx, actor, workspace)))


@router.put(OF_WORKSPACE, summary="Set the quota", responses=REFUSALS)
def set_quotas(workspace: str, asked: QuotaSet, tx: Tx, actor: Administrator) -> list[QuotaRead]:
    return _set(tx, actor, scopes.of_workspace(service.get(tx, actor, workspace)), asked)


@router.get(OF_MEMBER, summary="See a member's limits and what is used of them", responses=LOOKS)
def get_member_quotas(workspace: str, user_id: UUID, tx: Tx, actor: Reader) -> list[QuotaRead]:
    """One's own, or anybody's for the workspace's owners and admins. What is not limited is not listed."""
    return _seen(tx, scopes.of_member(tx, actor, service.get(tx, actor, workspace), user_id))


@router.put(OF_MEMBER, summary="Set a member's quota", responses=REFUSALS)
def set_member_quotas(
    workspace: str, user_id: UUID, asked: LimitsSet, tx: Tx, actor: Claimer
) -> list[QuotaRead]:
    """For the workspace's owners and admins, and administrators. It goes with the membership."""
    found = service.get(tx, actor, workspace)
    scopes.check_runs(tx, actor, found)
    return _set(tx, actor, scopes.of_member(tx, actor, found, user_id), asked)


@router.get(OF_ORGANISATION, summary="See an organisation's limits and what is used of them", responses=LOOKS)
def get_organisation_quotas(organisation: str, tx: Tx, actor: Reporter) -> list[QuotaRead]:
    return _seen(tx, scopes.of_organisation(tx, organisations.get(tx, actor, organisation)))


@router.put(OF_ORGANISATION, summary="Set an organisation's quota", responses=REFUSALS)
def set_organisation_quotas(
    organisation: str, asked: LimitsSet, tx: Tx, actor: Administrator
) -> list[QuotaRead]:
    return _set(tx, actor, scopes.of_organisation(tx, organisations.get(tx, actor, organisation)), asked)


def _seen(tx: Tx, scoped: Scoped) -> list[QuotaRead]:
    return _told(tx, quotas.of(tx, scoped))


def _set(tx: Tx, actor: Actor, scoped: Scoped, asked: LimitsSet) -> list[QuotaRead]:
    etags.check(tx, lambda: versions.locked_quotas(tx, scoped))
    return _told(tx, quota_setting.set_limits(tx, actor, scopes.lock(tx, scoped), asked))


def _told(tx: Tx, rows: list[Quota]) -> list[QuotaRead]:
    return etags.tag(tx, versions.of_quotas(rows), [quotas.read(row) for row in rows])
