"""Alembic's entry: runs within the connection that `upgrade` hands over."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import api.allocations.approval_models
import api.allocations.models
import api.core.audit
import api.core.notices
import api.core.operations.models
import api.core.proof_keys
import api.fleet.evidence
import api.fleet.group_models
import api.fleet.health_models
import api.fleet.models
import api.identity.models
import api.monitoring.models
import api.providers.models
import api.workspaces.models  # noqa: F401

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
)
context.run_migrations()
