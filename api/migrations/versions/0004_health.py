"""Health checks and their history; what the last one said of each host and GPU."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def host_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("health_current", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("health_verdict", sa.String(32), nullable=True),
        sa.Column("health_checked_at", MOMENT, nullable=True),
        sa.Column("health_tried_at", MOMENT, nullable=True),
        sa.Column("gpus_reset_at", sa.Float(), nullable=True),
    ]


def gpu_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("health_verdict", sa.String(32), nullable=True),
        sa.Column("health_action", sa.String(32), nullable=True),
        sa.Column("health_level", sa.Integer(), nullable=True),
        sa.Column("health_checked_at", MOMENT, nullable=True),
    ]


def upgrade() -> None:
    for column in host_columns():
        op.add_column("hosts", column)
    for column in gpu_columns():
        op.add_column("gpus", column)
    op.create_table(
        "health_checks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=True),
        sa.Column("verdict", sa.String(32), nullable=False),
        sa.Column("passed", sa.Integer(), nullable=False),
        sa.Column("checks", JSON, nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_health_checks_host_id")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_health_checks_operation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_health_checks")),
    )
    op.create_index(op.f("ix_health_checks_host_id"), "health_checks", ["host_id"], unique=False)


def downgrade() -> None:
    raise RuntimeError("the history of health checks is not taken back; restore a backup instead")
