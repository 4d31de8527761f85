"""The table of findings is the model's, and keeps one unresolved finding of a kind and a subject."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from api.core import clock
from api.core.db import Database
from api.monitoring.models import Action, Finding, Kind, Policy


def test_the_model_and_the_migration_agree(database: Database) -> None:
    def only_findings(name: str | None, kind: str, parents: Any) -> bool:
        return name == "findings" if kind == "table" else True

    with database.engine.connect() as connection:
        options = {"include_name": only_findings, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        own = sa.MetaData(naming_convention=SQLModel.metadata.naming_convention)
        SQLModel.metadata.tables["findings"].to_metadata(own)
        assert compare_metadata(context, own) == []


def finding(**more: Any) -> Finding:
    now = clock.now()
    return Finding(
        kind=Kind.IDLE_GPU,
        subject="allocation",
        owner="ada@example.org",
        detail="idle",
        evidence={},
        action=Action.LOOK,
        policy=Policy.NOTIFY,
        first_seen_at=now,
        last_seen_at=now,
        **more,
    )


def test_only_one_of_a_kind_and_a_subject_is_unresolved(database: Database) -> None:
    subject = uuid4()
    with database.transaction() as tx:
        tx.add(finding(subject_id=subject))
        tx.add(finding(subject_id=subject, resolved_at=clock.now()))
        tx.add(finding(subject_id=uuid4()))
    with pytest.raises(IntegrityError), database.transaction() as tx:
        tx.add(finding(subject_id=subject))
