"""Who asks, and what each role may do: one table."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Protocol
from uuid import UUID

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.core.errors import Forbidden, Unauthenticated


class Role(StrEnum):
    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    MEMBER = "member"
    VIEWER = "viewer"


class Permission(StrEnum):
    PROFILE = "profile"
    FLEET_READ = "fleet:read"
    FLEET_OPERATE = "fleet:operate"
    WORKSPACES_READ = "workspaces:read"
    WORKSPACES_ADMINISTER = "workspaces:administer"
    ALLOCATIONS_READ = "allocations:read"
    ALLOCATIONS_CLAIM = "allocations:claim"
    OPERATIONS_READ = "operations:read"
    REPORTS_READ = "reports:read"
    USERS_ADMINISTER = "users:administer"
    AUDIT_READ = "audit:read"


_VIEWER = frozenset(
    {
        Permission.PROFILE,
        Permission.FLEET_READ,
        Permission.WORKSPACES_READ,
        Permission.ALLOCATIONS_READ,
        Permission.OPERATIONS_READ,
    }
)
_MEMBER = _VIEWER | {Permission.ALLOCATIONS_CLAIM}
_OPERATOR = _MEMBER | {Permission.FLEET_OPERATE, Permission.REPORTS_READ}
GRANTS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.MEMBER: _MEMBER,
    Role.OPERATOR: _OPERATOR,
    Role.ADMINISTRATOR: frozenset(Permission),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who caused a change. `user_id` is None for the platform itself."""

    name: str
    role: Role
    user_id: UUID | None = None
    key_id: UUID | None = None
    address: str | None = field(default=None, compare=False)
    request_id: str | None = field(default=None, compare=False)

    def may(self, permission: Permission) -> bool:
        return permission in GRANTS[self.role]

    @property
    def operates(self) -> bool:
        """Sees and acts across workspaces."""
        return self.may(Permission.FLEET_OPERATE)


def system(name: str = "ironyard") -> Actor:
    """The platform itself, acting on a schedule or finishing what somebody asked for."""
    return Actor(name=name, role=Role.ADMINISTRATOR)


class Authenticator(Protocol):
    """Tells who holds a token. `cached` answers from memory or returns None; `look_up` asks the database."""

    def cached(self, token: str) -> Actor | None: ...

    def look_up(self, token: str) -> Actor: ...


bearer = HTTPBearer(auto_error=False, description="A session token or an API key (`iry_…`)")


async def current_actor(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
) -> Actor:
    if credentials is None:
        raise Unauthenticated("Send `Authorization: Bearer` with a session token or an API key.")
    authenticator: Authenticator = request.app.state.authenticator
    actor = authenticator.cached(credentials.credentials)
    if actor is None:
        actor = await run_in_threadpool(authenticator.look_up, credentials.credentials)
    return Actor(
        name=actor.name,
        role=actor.role,
        user_id=actor.user_id,
        key_id=actor.key_id,
        address=request.client.host if request.client else None,
        request_id=request.scope.get("request_id"),
    )


def needs(permission: Permission) -> Any:
    """A route's requirement: signed in, with a role that grants `permission`."""

    async def requirement(actor: Annotated[Actor, Depends(current_actor)]) -> Actor:
        return _allowed(actor, permission)

    requirement.permission = permission  # type: ignore[attr-defined]
    return Depends(requirement)


def needs_or_token(permission: Permission, setting: str) -> Any:
    """A route's requirement: as `needs`, or the token that the named setting holds.

    That token is nobody (the actor is then None) and opens no other route.
    """

    async def requirement(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
    ) -> Actor | None:
        token: str = getattr(request.app.state.settings, setting).get_secret_value()
        if token and credentials is not None and _same(credentials.credentials, token):
            return None
        return _allowed(await current_actor(request, credentials), permission)

    requirement.permission = permission  # type: ignore[attr-defined]
    return Depends(requirement)


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _allowed(actor: Actor, permission: Permission) -> Actor:
    if not actor.may(permission):
        raise Forbidden(f"This needs {permission.value}; the role {actor.role.value} does not grant it.")
    return actor


def requirement_of(call: Callable[..., Any] | None) -> Permission | None:
    """The permission that a dependency made by `needs` or `needs_or_token` asks for."""
    return getattr(call, "permission", None)
