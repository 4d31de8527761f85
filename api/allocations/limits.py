"""What a quota of GPUs allows."""

from __future__ import annotations

from collections import Counter

from sqlalchemy.orm import Session

from api.allocations.models import Allocation
from api.core import notices
from api.core.texts import gpus
from api.workspaces.models import Scope
from api.workspaces.quotas import QuotaExceeded
from api.workspaces.service import Limit, Tenant

__all__ = ["QuotaExceeded", "beyond_soft", "check_quota"]


def check_quota(tenant: Tenant, asked: Counter[str], *, later: bool = False) -> None:
    """By model (empty: all together), at every level. The database checks again when holds are written.

    `later`: what the limits say is used counts what is reserved. Raises QuotaExceeded.
    """
    for limit in tenant.limits:
        number = asked[limit.model]
        if number and limit.hard is not None and limit.used + number > limit.hard:
            raise QuotaExceeded(
                workspace=tenant.slug,
                scope=limit.scope,
                model=limit.model or None,
                limit=limit.hard,
                used=limit.used,
                asked=number,
                later=later,
            )


def beyond_soft(tx: Session, tenant: Tenant, asked: Counter[str], allocation: Allocation) -> list[str]:
    """Warnings of the soft limits that a claim exceeds; a notice for each that it is the first to exceed."""
    warnings = []
    for limit in tenant.limits:
        reached = limit.used + asked[limit.model]
        if asked[limit.model] and limit.soft is not None and reached > limit.soft:
            warnings.append(_sentence(tenant, limit, reached))
            if limit.used <= limit.soft:
                _tell(tx, tenant, limit, reached, allocation)
    return warnings


def _sentence(tenant: Tenant, limit: Limit, reached: int) -> str:
    of = f" of {limit.model}" if limit.model else ""
    who = {
        Scope.WORKSPACE: tenant.slug,
        Scope.MEMBER: f"A member of {tenant.slug}",
        Scope.ORGANISATION: f"The organisation of {tenant.slug}",
    }[limit.scope]
    return f"{who} holds {gpus(reached)}{of}, more than its soft limit of {limit.soft}."


def _tell(tx: Session, tenant: Tenant, limit: Limit, reached: int, allocation: Allocation) -> None:
    scope_id = {Scope.ORGANISATION: tenant.organisation_id, Scope.WORKSPACE: tenant.id}.get(
        limit.scope, tenant.member_id or tenant.id
    )
    notices.tell(
        tx,
        "quota.soft_limit_crossed",
        f"quota:{scope_id}:{limit.model}:{allocation.id}",
        scope_id,
        _sentence(tenant, limit, reached),
        workspace_id=None if limit.scope is Scope.ORGANISATION else tenant.id,
        user_id=allocation.requested_by_id if limit.scope is Scope.MEMBER else None,
        scope=limit.scope,
        model=limit.model or None,
        soft_limit=limit.soft,
        used=reached,
    )
