"""Schema migrations, run on SQLite and PostgreSQL alike."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from api.core.db import make_engine
from api.core.operations import background
from api.settings import Settings


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.set_main_option("path_separator", "os")
    return made


def head() -> str:
    """The revision that this release needs."""
    found = ScriptDirectory.from_config(config()).get_current_head()
    assert found is not None
    return found


def upgrade(settings: Settings, revision: str = "head") -> None:
    """Bring the database, and the background queue's tables in it, to this release."""
    engine = make_engine(settings)
    made = config()
    try:
        with engine.connect() as connection:
            _rebuild_freely(connection)
            with connection.begin():
                made.attributes["connection"] = connection
                command.upgrade(made, revision)
                _check_references(connection)
    finally:
        engine.dispose()
    background.migrate(settings)


def _rebuild_freely(connection: sa.Connection) -> None:
    """SQLite changes a table by building it anew, which its checks of references would not allow."""
    if connection.dialect.name == "sqlite":
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")


def _check_references(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if broken:
            raise RuntimeError(f"the migration would leave references to nothing: {broken[:5]}")
