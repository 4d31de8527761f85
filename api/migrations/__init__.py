"""Schema migrations, run on SQLite and PostgreSQL alike."""

from __future__ import annotations

from pathlib import Path

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
        with engine.begin() as connection:
            made.attributes["connection"] = connection
            command.upgrade(made, revision)
    finally:
        engine.dispose()
    background.migrate(settings)
