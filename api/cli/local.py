"""What commands do on this machine without a server: settings, migrations, the first administrator.

Everything heavy is imported inside the functions.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from api.cli.exits import Exit, Failure

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from api.settings import Settings

SUPERVISOR = "IRONYARD_SUPERVISOR"
ORPHAN_CHECK = 1.0  # seconds
TOKEN_LIFETIME = 3600  # seconds
OWNER_ONLY = 0o077  # the umask of what may create the database


class Prepared(NamedTuple):
    """`password` is the new administrator's one-time password; None when users were there already."""

    email: str
    password: str | None
    token: str


def settings() -> Settings:
    """The settings, or a sentence that names what is wrong with them."""
    from pydantic import ValidationError

    from api.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        found = "; ".join(_complaint(item["loc"], item["msg"]) for item in error.errors())
        raise Failure(f"The settings are not right: {found}.", Exit.USAGE) from error


def _complaint(place: tuple[int | str, ...], message: str) -> str:
    name = "IRONYARD_" + "_".join(str(part) for part in place).upper()
    return f"{name}: {message}" if place else message.removeprefix("Value error, ")


def upgrade(chosen: Settings) -> tuple[str | None, str]:
    """Migrate the database; the revisions before and after."""
    from alembic.migration import MigrationContext

    from api import migrations
    from api.core.db import make_engine

    with _database_failures():
        engine = make_engine(chosen)
        try:
            with engine.connect() as connection:
                before = MigrationContext.configure(connection).get_current_revision()
        finally:
            engine.dispose()
        migrations.upgrade(chosen)
    return before, migrations.head()


def prepare(chosen: Settings) -> Prepared:
    """The first administrator and the workspace `default` where there are no users, and a token for `up`."""
    from pydantic import ValidationError

    from api.core.access import Actor
    from api.identity import service as identity
    from api.identity.tokens import Tokens
    from api.workspaces import service as workspaces
    from api.workspaces.models import WorkspaceCreate

    with _transaction(chosen) as tx:
        try:
            made = identity.bootstrap(
                tx, chosen.administrator_email, lifetime=chosen.one_time_password_lifetime
            )
        except ValidationError as error:
            raise Failure("IRONYARD_ADMINISTRATOR_EMAIL is no e-mail address.", Exit.USAGE) from error
        if made is not None:
            user, _ = made
            actor = Actor(name=user.email, role=user.role, user_id=user.id)
            wanted = WorkspaceCreate(slug="default", name="Default")
            workspaces.create(tx, actor, wanted, default_quota=chosen.default_gpu_quota)
        first = identity.first_administrator(tx)
        if first is None:
            raise Failure("No administrator is active; take one back with SQL or restore a backup.")
        tokens = Tokens(chosen.signing_key, TOKEN_LIFETIME)
        return Prepared(first.email, made[1] if made else None, tokens.issue(first))


def reset_password(email: str) -> str:
    """A new one-time password of the user, straight into the database."""
    from api.core.access import system
    from api.core.errors import NotFound
    from api.identity import service as identity

    chosen = settings()
    with _transaction(chosen) as tx:
        try:
            user = identity.find_user(tx, email)
        except NotFound as error:
            raise Failure(error.detail, Exit.NOT_FOUND) from error
        lifetime = chosen.one_time_password_lifetime
        return identity.one_time_password(tx, system("ironyard user reset-password"), user, lifetime=lifetime)


def workers_here(chosen: Settings) -> int:
    """How many workers of this machine said lately that they live."""
    import platform

    from api.core.operations import workers

    with _transaction(chosen) as tx:
        return workers.alive(tx, silence=chosen.worker_timeout, machine=platform.node())


@contextmanager
def _transaction(chosen: Settings) -> Iterator[Session]:
    from api.core.db import Database, make_engine

    with _database_failures():
        engine = make_engine(chosen)
        try:
            with Database(engine).transaction() as tx:
                yield tx
        finally:
            engine.dispose()


@contextmanager
def _database_failures() -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())
        raise Failure(f"The database cannot be used: {why}") from error


def end_with_supervisor() -> None:
    """Under `ironyard up`: end when it is gone, however it ended."""
    parent = os.environ.pop(SUPERVISOR, None)
    if parent is None:
        return

    def wait() -> None:
        while os.getppid() == int(parent):
            time.sleep(ORPHAN_CHECK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()
