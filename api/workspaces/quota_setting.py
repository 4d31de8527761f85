"""Setting the limits of one scope."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from api.core import audit
from api.core.access import Actor
from api.core.operations import syncs
from api.workspaces.limit_models import LimitsSet
from api.workspaces.models import ALL_MODELS, Quota, Resource, Scope
from api.workspaces.quotas import Key, always, limited, of
from api.workspaces.scopes import Scoped


def set_limits(tx: Session, actor: Actor, scoped: Scoped, asked: LimitsSet) -> list[Quota]:
    """Replace all limits of a scope. What is used beyond them ends nothing; it only blocks what is new.

    The scope is locked, so that the counting of a new row sees every hold.
    """
    present = {(row.resource, row.model): row for row in of(tx, scoped)}
    before = _told(present.values())
    wanted = _wanted(asked)
    for key in wanted.keys() | present.keys():
        _set(tx, scoped, key, present.get(key), *wanted.get(key, (None, None)))
    tx.flush()
    tx.expire_all()  # a trigger has counted what a new row's model holds
    rows = of(tx, scoped)
    audit.record(tx, actor, "quota.changed", scoped.audited, before=before, after=_told(rows))
    if scoped.scope is Scope.WORKSPACE:
        syncs.changed(tx, actor)
    return rows


def _set(
    tx: Session, scoped: Scoped, key: Key, row: Quota | None, hard: int | None, soft: int | None
) -> None:
    resource, model = key
    unlimited = hard is None and soft is None
    if row is not None and unlimited and resource is Resource.GPUS and not always(row):
        tx.delete(row)
    elif row is not None:
        row.hard_limit, row.soft_limit = hard, soft
    elif not unlimited:
        tx.add(
            Quota(
                scope_id=scoped.id,
                resource=resource,
                model=model,
                scope=scoped.scope,
                workspace_id=scoped.workspace_id,
                hard_limit=hard,
                soft_limit=soft,
            )
        )


def _wanted(asked: LimitsSet) -> dict[Key, tuple[int | None, int | None]]:
    """Hard and soft limit by resource and model."""
    models = {
        (Resource.GPUS, model): (asked.models.get(model), asked.soft.models.get(model))
        for model in asked.models.keys() | asked.soft.models.keys()
    }
    return models | {
        (Resource.GPUS, ALL_MODELS): (asked.gpus, asked.soft.gpus),
        (Resource.STORAGE, ALL_MODELS): (asked.storage_gib, asked.soft.storage_gib),
        (Resource.ENVIRONMENTS, ALL_MODELS): (asked.environments, asked.soft.environments),
    }


def _told(rows: Any) -> dict[str, Any]:
    """The limits as the audit trail keeps them: by model, `all` or the resource."""
    return {
        row.model or ("all" if row.resource is Resource.GPUS else row.resource.value): (
            row.hard_limit if row.soft_limit is None else {"hard": row.hard_limit, "soft": row.soft_limit}
        )
        for row in limited(list(rows))
    }
