"""HTTP of organisations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from sqlmodel import col

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.pagination import Page, Pages, fetch
from api.workspaces import organisations, versions
from api.workspaces.models import Organisation, OrganisationChange, OrganisationCreate, OrganisationRead

router = APIRouter(prefix="/api/v1/organisations", tags=["organisations"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.WORKSPACES_READ)]
Administrator = Annotated[Actor, needs(Permission.WORKSPACES_ADMINISTER)]


@router.get("", summary="List the organisations that I see", responses=problems(401, 403, 422))
def list_organisations(tx: Tx, pages: Pages, actor: Reader) -> Page[OrganisationRead]:
    rows, following = fetch(tx, organisations.visible(actor), col(Organisation.id), pages)
    return Page(items=[OrganisationRead.model_validate(row) for row in rows], next_cursor=following)


@router.post("", status_code=201, summary="Create an organisation", responses=problems(401, 403, 409, 422))
def create_organisation(asked: OrganisationCreate, tx: Tx, actor: Administrator) -> OrganisationRead:
    return _read(tx, organisations.create(tx, actor, asked))


@router.get(
    "/{organisation}",
    summary="Look at one organisation",
    responses=problems(401, 403, 404, 422) | etags.NOT_MODIFIED,
)
def get_organisation(organisation: str, tx: Tx, actor: Reader) -> OrganisationRead:
    """By id or slug."""
    return _read(tx, organisations.get(tx, actor, organisation))


@router.patch(
    "/{organisation}", summary="Rename an organisation", responses=problems(401, 403, 404, 409, 412, 422)
)
def change_organisation(
    organisation: str, asked: OrganisationChange, tx: Tx, actor: Administrator
) -> OrganisationRead:
    found = organisations.get(tx, actor, organisation)
    etags.check(tx, lambda: versions.locked_organisation(tx, found.id))
    return _read(tx, organisations.rename(tx, actor, found, asked.name))


def _read(tx: Tx, row: Organisation) -> OrganisationRead:
    return etags.tag(tx, organisations.version(row), OrganisationRead.model_validate(row))
