"""Use cases of identity: passwords, session tokens, API keys, users."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from functools import cache
from uuid import UUID

import sqlalchemy as sa
from pwdlib import PasswordHash
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock, etags
from api.core.access import Actor, Role, system
from api.core.errors import Conflict, Exists, Invalid, NotFound, Unauthenticated
from api.core.operations import syncs
from api.identity.models import ApiKey, User, UserCreate, UserUpdate

KEY_PREFIX = "iry_"
WRONG = "The e-mail address or the password is wrong."


@cache
def _hasher() -> PasswordHash:
    return PasswordHash.recommended()


@cache
def _decoy() -> str:
    return _hasher().hash(secrets.token_hex(16))


def digest(key: str) -> str:
    """What is stored of an API key. The key has 256 random bits, so one round of SHA-256 is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def sign_in(tx: Session, email: str, password: str) -> User:
    """Raises Unauthenticated, after the same work whether or not the account exists."""
    user = tx.execute(sa.select(User).where(col(User.email) == email)).scalar_one_or_none()
    right = _hasher().verify(password, user.password_hash if user else _decoy())
    if user is None or not right or not user.active:
        raise Unauthenticated(WRONG)
    if user.password_expires_at is not None and user.password_expires_at < clock.now():
        raise Unauthenticated("This one-time password has expired; ask an administrator for another.")
    return user


def change_password(tx: Session, actor: Actor, current: str, new: str) -> None:
    """Ends every session token of the user."""
    user = _own(tx, actor)
    if not _hasher().verify(current, user.password_hash):
        raise Invalid("The current password is wrong.")
    if secrets.compare_digest(current, new):
        raise Invalid("The new password must differ from the current one.")
    _set_password(user, new)
    audit.record(tx, actor, "user.password_changed", user.id)


def one_time_password(tx: Session, actor: Actor, user: User, *, lifetime: int) -> str:
    """Replace the password by one that works until changed, for `lifetime` seconds at most."""
    password = secrets.token_urlsafe(12)
    _set_password(user, password)
    user.password_expires_at = clock.now() + timedelta(seconds=lifetime)
    audit.record(tx, actor, "user.one_time_password_set", user.id)
    return password


def _set_password(user: User, password: str) -> None:
    user.password_hash = _hasher().hash(password)
    user.password_expires_at = None
    user.token_generation += 1  # ends every session token issued before


def bootstrap(tx: Session, email: str, *, lifetime: int) -> tuple[User, str] | None:
    """The first administrator and the one-time password; None where users exist already."""
    if tx.execute(sa.select(col(User.id)).limit(1)).first() is not None:
        return None
    asked = UserCreate(email=email, name="Administrator", role=Role.ADMINISTRATOR)
    return create_user(tx, system(), asked, lifetime=lifetime)


def first_administrator(tx: Session) -> User | None:
    """The one that has been active for longest, in whose name this machine's operator acts."""
    active = sa.select(User).where(col(User.role) == Role.ADMINISTRATOR, col(User.active))
    return tx.execute(active.order_by(col(User.id)).limit(1)).scalar_one_or_none()


def create_user(tx: Session, actor: Actor, asked: UserCreate, *, lifetime: int) -> tuple[User, str]:
    taken = tx.execute(sa.select(col(User.id)).where(col(User.email) == asked.email)).first()
    if taken is not None:
        raise Exists(f"A user {asked.email} exists already.")
    user = User(email=asked.email, name=asked.name, role=asked.role, password_hash="")
    tx.add(user)
    password = one_time_password(tx, actor, user, lifetime=lifetime)
    audit.record(tx, actor, "user.created", user.id, after={"email": user.email, "role": user.role})
    return user, password


def update_user(tx: Session, actor: Actor, user_id: UUID, asked: UserUpdate) -> User:
    user = lock_user(tx, user_id)
    if user.id == actor.user_id:
        raise Conflict("You cannot change your own role or status; ask another administrator.")
    before = {"role": user.role, "active": user.active}
    for name, value in asked.model_dump(exclude_none=True).items():
        setattr(user, name, value)
    after = {"role": user.role, "active": user.active}
    audit.record(tx, actor, "user.changed", user.id, before=before, after=after)
    if before["active"] != after["active"]:
        syncs.changed(tx, actor)
    return user


def get_user(tx: Session, user_id: UUID) -> User:
    user = tx.get(User, user_id)
    if user is None:
        raise NotFound(f"There is no user {user_id}.")
    return user


def user_version(user: User) -> str:
    """What administrators change of a user; a password is the user's own."""
    return etags.version(user, aside={"password_hash", "password_expires_at", "token_generation"})


def lock_user(tx: Session, user_id: UUID) -> User:
    user = tx.get(User, user_id, with_for_update=True)
    if user is None:
        raise NotFound(f"There is no user {user_id}.")
    return user


def find_user(tx: Session, email: str) -> User:
    user = tx.execute(sa.select(User).where(col(User.email) == email.lower())).scalar_one_or_none()
    if user is None:
        raise NotFound(f"There is no user {email}.")
    return user


def emails(tx: Session, user_ids: set[UUID]) -> dict[UUID, str]:
    rows = tx.execute(sa.select(col(User.id), col(User.email)).where(col(User.id).in_(user_ids)))
    return {row.id: row.email for row in rows}


def create_key(tx: Session, actor: Actor, name: str) -> tuple[ApiKey, str]:
    """The stored key and the secret, which is not kept."""
    user = _own(tx, actor)
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(user_id=user.id, name=name, prefix=secret[:10], digest=digest(secret))
    tx.add(key)
    audit.record(tx, actor, "api_key.created", key.id, after={"name": name, "prefix": key.prefix})
    return key, secret


def list_keys(tx: Session, actor: Actor) -> list[ApiKey]:
    own = sa.select(ApiKey).where(col(ApiKey.user_id) == actor.user_id).order_by(col(ApiKey.id))
    return list(tx.execute(own).scalars())


def get_key(tx: Session, actor: Actor, key_id: UUID, *, lock: bool = False) -> ApiKey:
    key = tx.get(ApiKey, key_id, with_for_update=lock or None)
    if key is None or key.user_id != actor.user_id:
        raise NotFound(f"You have no API key {key_id}.")
    return key


def key_version(key: ApiKey) -> str:
    return etags.version(key, aside={"last_used_at"})


def revoke_key(tx: Session, actor: Actor, key_id: UUID) -> ApiKey:
    key = get_key(tx, actor, key_id, lock=True)
    if key.revoked_at is None:
        key.revoked_at = clock.now()
        audit.record(tx, actor, "api_key.revoked", key.id, before={"name": key.name})
    return key


def _own(tx: Session, actor: Actor) -> User:
    if actor.user_id is None:
        raise Conflict("The platform itself has no password and no keys.")
    return get_user(tx, actor.user_id)
