"""Session tokens (JWT, HS256) and the authenticator that reads them and API keys."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from cachetools import TTLCache
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from sqlmodel import col

from api.core import clock
from api.core.access import Actor
from api.core.db import Database
from api.core.errors import Unauthenticated
from api.identity.models import ApiKey, User
from api.identity.service import KEY_PREFIX, digest

ISSUER = "ironyard"
ALGORITHM = "HS256"
# A revoked key or a suspended user is refused after at most this many seconds.
CACHE_SECONDS = 1.0
LAST_USED_RESOLUTION = timedelta(minutes=1)
REFUSED = "The token or key is unknown, expired or revoked."


class Tokens:
    """Issues and reads session tokens."""

    def __init__(self, secret: str, lifetime: int) -> None:
        self.key = OctKey.import_key(secret)
        self.lifetime = lifetime
        self.claims = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": ISSUER},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            gen={"essential": True},
        )

    def issue(self, user: User, *, lifetime: int | None = None) -> str:
        now = clock.whole_seconds(clock.now())
        claims = {
            "iss": ISSUER,
            "sub": str(user.id),
            "iat": now,
            "exp": now + (lifetime or self.lifetime),
            "gen": user.token_generation,
        }
        return jwt.encode({"alg": ALGORITHM}, claims, self.key)

    def read(self, token: str) -> tuple[UUID, int]:
        """The user and the token's generation. Raises Unauthenticated."""
        try:
            claims = jwt.decode(token, self.key, algorithms=[ALGORITHM]).claims
            self.claims.validate(claims)
            return UUID(claims["sub"]), int(claims["gen"])
        except (JoseError, ValueError, TypeError) as error:
            raise Unauthenticated(REFUSED) from error


class TokenAuthenticator:
    """Looks tokens and keys up in the database and remembers the answer for a second."""

    def __init__(self, database: Database, tokens: Tokens) -> None:
        self.database = database
        self.tokens = tokens
        self._known: TTLCache[str, Actor] = TTLCache(maxsize=4096, ttl=CACHE_SECONDS)
        self._lock = threading.Lock()

    def cached(self, token: str) -> Actor | None:
        with self._lock:
            return self._known.get(token)

    def look_up(self, token: str) -> Actor:
        actor = self._by_key(token) if token.startswith(KEY_PREFIX) else self._by_token(token)
        with self._lock:
            self._known[token] = actor
        return actor

    def _by_token(self, token: str) -> Actor:
        user_id, generation = self.tokens.read(token)
        user = self.database.run(lambda tx: tx.get(User, user_id), reading=True)
        if user is None or not user.active or generation != user.token_generation:
            raise Unauthenticated(REFUSED)
        return Actor(name=user.email, role=user.role, user_id=user.id)

    def _by_key(self, key: str) -> Actor:
        statement = (
            sa.select(ApiKey, User)
            .join(User, col(User.id) == col(ApiKey.user_id))
            .where(col(ApiKey.digest) == digest(key), col(ApiKey.revoked_at).is_(None), col(User.active))
        )
        found = self.database.run(lambda tx: tx.execute(statement).one_or_none(), reading=True)
        if found is None:
            raise Unauthenticated(REFUSED)
        stored, user = found
        now = clock.now()
        if stored.last_used_at is None or now - stored.last_used_at > LAST_USED_RESOLUTION:
            used = sa.update(ApiKey).where(col(ApiKey.id) == stored.id).values(last_used_at=now)
            self.database.run(lambda tx: tx.execute(used))
        return Actor(name=user.email, role=user.role, user_id=user.id, key_id=stored.id)
