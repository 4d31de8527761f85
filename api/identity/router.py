"""HTTP of identity: sign-in, own profile and keys, the administrator's list of users."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from sqlmodel import col

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.pagination import Page, Pages, fetch
from api.identity import service
from api.identity.models import (
    ApiKey,
    ApiKeyCreate,
    ApiKeyCreated,
    ApiKeyRead,
    PasswordChange,
    SignIn,
    Token,
    User,
    UserCreate,
    UserCreated,
    UserRead,
    UserUpdate,
)

router = APIRouter(prefix="/api/v1", tags=["identity"], route_class=TransactionalRoute)
Self = Annotated[Actor, needs(Permission.PROFILE)]
Administrator = Annotated[Actor, needs(Permission.USERS_ADMINISTER)]


@router.post("/auth/token", summary="Sign in", responses=problems(401, 422))
def sign_in(asked: SignIn, tx: Tx, request: Request) -> Token:
    user = service.sign_in(tx, asked.email, asked.password.get_secret_value())
    tokens = request.app.state.tokens
    return Token(
        access_token=tokens.issue(user),
        expires_in=tokens.lifetime,
        must_change_password=user.password_expires_at is not None,
    )


@router.get("/auth/me", summary="Who am I", responses=problems(401, 403) | etags.NOT_MODIFIED)
def me(tx: Tx, actor: Self) -> UserRead:
    assert actor.user_id is not None
    return _user(tx, service.get_user(tx, actor.user_id))


@router.post(
    "/auth/password", status_code=204, summary="Change my password", responses=problems(401, 403, 409, 422)
)
def change_password(asked: PasswordChange, tx: Tx, actor: Self) -> None:
    """Every session token of yours ends; sign in again with the new password."""
    service.change_password(
        tx, actor, asked.current_password.get_secret_value(), asked.new_password.get_secret_value()
    )


@router.get("/api-keys", summary="List my API keys", responses=problems(401, 403))
def list_keys(tx: Tx, actor: Self) -> list[ApiKeyRead]:
    return [ApiKeyRead.model_validate(key) for key in service.list_keys(tx, actor)]


@router.post("/api-keys", status_code=201, summary="Make an API key", responses=problems(401, 403, 409, 422))
def create_key(asked: ApiKeyCreate, tx: Tx, actor: Self) -> ApiKeyCreated:
    key, secret = service.create_key(tx, actor, asked.name)
    return ApiKeyCreated(**ApiKeyRead.model_validate(key).model_dump(), key=secret)


@router.get(
    "/api-keys/{key_id}",
    summary="Look at one of my API keys",
    responses=problems(401, 403, 404, 422) | etags.NOT_MODIFIED,
)
def get_key(key_id: UUID, tx: Tx, actor: Self) -> ApiKeyRead:
    return _key(tx, service.get_key(tx, actor, key_id))


@router.delete("/api-keys/{key_id}", summary="Revoke an API key", responses=problems(401, 403, 404, 412, 422))
def revoke_key(key_id: UUID, tx: Tx, actor: Self) -> ApiKeyRead:
    """It is refused everywhere within a second."""
    etags.check(tx, lambda: service.key_version(service.get_key(tx, actor, key_id, lock=True)))
    return _key(tx, service.revoke_key(tx, actor, key_id))


def _key(tx: Tx, key: ApiKey) -> ApiKeyRead:
    return etags.tag(tx, service.key_version(key), ApiKeyRead.model_validate(key))


@router.get("/admin/users", summary="List users", responses=problems(401, 403, 422))
def list_users(
    tx: Tx,
    pages: Pages,
    actor: Administrator,  # noqa: ARG001
    email: Annotated[str | None, Query(description="only this address")] = None,
) -> Page[UserRead]:
    statement = sa.select(User)
    if email is not None:
        statement = statement.where(col(User.email) == email.lower())
    rows, following = fetch(tx, statement, col(User.id), pages)
    return Page(items=[UserRead.model_validate(row) for row in rows], next_cursor=following)


@router.post("/admin/users", status_code=201, summary="Create a user", responses=problems(401, 403, 409, 422))
def create_user(asked: UserCreate, tx: Tx, actor: Administrator, request: Request) -> UserCreated:
    lifetime = request.app.state.settings.one_time_password_lifetime
    user, password = service.create_user(tx, actor, asked, lifetime=lifetime)
    return UserCreated(**UserRead.model_validate(user).model_dump(), one_time_password=password)


@router.get(
    "/admin/users/{user_id}",
    summary="Look at one user",
    responses=problems(401, 403, 404, 422) | etags.NOT_MODIFIED,
)
def get_user(user_id: UUID, tx: Tx, actor: Administrator) -> UserRead:  # noqa: ARG001
    return _user(tx, service.get_user(tx, user_id))


@router.patch(
    "/admin/users/{user_id}",
    summary="Change a user's role or status",
    responses=problems(401, 403, 404, 409, 412, 422),
)
def update_user(user_id: UUID, asked: UserUpdate, tx: Tx, actor: Administrator) -> UserRead:
    etags.check(tx, lambda: service.user_version(service.lock_user(tx, user_id)))
    return _user(tx, service.update_user(tx, actor, user_id, asked))


def _user(tx: Tx, user: User) -> UserRead:
    return etags.tag(tx, service.user_version(user), UserRead.model_validate(user))
