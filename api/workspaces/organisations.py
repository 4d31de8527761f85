"""Use cases of organisations: what workspaces belong to."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, etags
from api.core.access import Actor
from api.core.errors import Exists, NotFound
from api.core.ids import as_uuid
from api.workspaces.models import Membership, Organisation, OrganisationCreate, Workspace


def visible(actor: Actor) -> sa.Select[Organisation]:
    """All of them for operators; for others those of their workspaces."""
    statement = sa.select(Organisation)
    if actor.operates:
        return statement
    mine = (
        sa.select(col(Workspace.organisation_id))
        .join(Membership, col(Membership.workspace_id) == col(Workspace.id))
        .where(col(Membership.user_id) == actor.user_id)
    )
    return statement.where(col(Organisation.id).in_(mine))


def get(tx: Session, actor: Actor, organisation: UUID | str) -> Organisation:
    """By id or slug. One that the actor may not see is not found."""
    by_id = as_uuid(organisation)
    wanted = col(Organisation.id) == by_id if by_id else col(Organisation.slug) == organisation
    found = tx.execute(visible(actor).where(wanted)).scalar_one_or_none()
    if found is None:
        raise NotFound(f"There is no organisation {organisation} that you may see.")
    return found


def lock(tx: Session, organisation_id: UUID) -> Organisation:
    """Before anything else of it: no workspace comes or goes meanwhile."""
    return tx.get_one(Organisation, organisation_id, with_for_update=True, populate_existing=True)


def first(tx: Session) -> Organisation:
    """The one of workspaces that name none."""
    return tx.execute(sa.select(Organisation).order_by(col(Organisation.id)).limit(1)).scalar_one()


def create(tx: Session, actor: Actor, asked: OrganisationCreate) -> Organisation:
    if tx.execute(sa.select(col(Organisation.id)).where(col(Organisation.slug) == asked.slug)).first():
        raise Exists(f"An organisation {asked.slug} exists already.")
    made = Organisation(slug=asked.slug, name=asked.name)
    tx.add(made)
    tx.flush()
    audit.record(tx, actor, "organisation.created", made.id, after={"slug": made.slug, "name": made.name})
    return made


def rename(tx: Session, actor: Actor, organisation: Organisation, name: str) -> Organisation:
    locked = lock(tx, organisation.id)
    before, locked.name = locked.name, name
    audit.record(tx, actor, "organisation.changed", locked.id, before={"name": before}, after={"name": name})
    tx.flush()
    return locked


def version(organisation: Organisation) -> str:
    return etags.version(organisation)


def workspaces(tx: Session, organisation_id: UUID) -> list[UUID]:
    own = sa.select(col(Workspace.id)).where(col(Workspace.organisation_id) == organisation_id)
    return list(tx.execute(own.order_by(col(Workspace.id))).scalars())
