"""Use cases of tenancy: which cluster follows the ledger, and when it is brought in line."""

from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit
from api.core.access import Actor
from api.core.errors import Conflict
from api.core.operations import syncs
from api.core.operations.lifecycle import State
from api.core.operations.models import Operation
from api.settings import Settings

KIND = "tenancy"


class NotConfigured(Conflict):
    code, title = "tenancy-not-configured", "No cluster follows this ledger"


def followers(settings: Settings) -> tuple[syncs.Sync, ...]:
    """What every transaction of this installation carries along: the sync of its cluster, if it has one."""
    stack = settings.tenancy_stack
    return (syncs.Sync(KIND, subject(stack), stack),) if stack else ()


def subject(stack: str) -> UUID:
    """The stack's id, so that at most one operation at a time works on it."""
    return uuid5(NAMESPACE_URL, f"urn:ironyard:tenancy:{stack}")


def sync(tx: Session, actor: Actor, settings: Settings) -> Operation:
    """Ask for a sync that also mends what was changed in the cluster by hand. Raises NotConfigured."""
    found = followers(settings)
    if not found:
        raise NotConfigured("Set IRONYARD_TENANCY_STACK for the API and the workers to have one follow it.")
    audit.record(tx, actor, "tenancy.sync_requested", found[0].subject_id, after={"stack": found[0].subject})
    return syncs.request(tx, actor, found[0], refresh=True)


def catch_up(tx: Session, actor: Actor, settings: Settings) -> None:
    """Start a sync where none has been yet, or where the last one failed."""
    for wanted in followers(settings):
        newest = tx.execute(
            sa.select(col(Operation.state))
            .where(col(Operation.subject_id) == wanted.subject_id)
            .order_by(col(Operation.id).desc())
            .limit(1)
        ).scalar_one_or_none()
        if newest in (None, State.FAILED):
            syncs.request(tx, actor, wanted)
