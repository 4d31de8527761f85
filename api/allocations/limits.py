"""What a quota of GPUs allows."""

from __future__ import annotations

from collections import Counter

from api.core.errors import Conflict
from api.workspaces.models import Scope
from api.workspaces.service import Tenant


class QuotaExceeded(Conflict):
    code, title = "quota-exceeded", "A quota does not allow this"

    def __init__(
        self,
        *,
        workspace: str,
        scope: Scope,
        model: str | None,
        limit: int,
        used: int,
        asked: int,
        later: bool = False,
    ) -> None:
        of = f" of {model}" if model else ""
        whose = {
            Scope.WORKSPACE: f"{workspace} may hold {limit} GPUs{of}",
            Scope.MEMBER: f"You may hold {limit} GPUs{of} in {workspace}",
            Scope.ORGANISATION: f"The organisation of {workspace} may hold {limit} GPUs{of}",
        }[scope]
        uses = f"{used} are held or reserved at that time" if later else f"{used} are held"
        super().__init__(
            f"{whose}, and {uses}; {asked} more were asked for. "
            "Release some or ask an administrator for more.",
            workspace=workspace,
            scope=scope,
            model=model,
            limit=limit,
            used=used,
            asked=asked,
        )


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
