"""Manifests and reclaim records, signed, in tables of their own; groups of operations; draining."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from hashlib import sha256

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from api.core.ids import new_id

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

POSTGRESQL = (
    """CREATE TRIGGER reclaim_records_kept BEFORE UPDATE OR DELETE ON reclaim_records FOR EACH ROW
    EXECUTE FUNCTION ironyard_refuse('a record is written once')""",
    """CREATE TRIGGER reclaim_records_not_emptied BEFORE TRUNCATE ON reclaim_records
    EXECUTE FUNCTION ironyard_refuse('a record is written once')""",
)
SQLITE = (
    """CREATE TRIGGER reclaim_records_not_edited BEFORE UPDATE ON reclaim_records
    BEGIN SELECT RAISE(ABORT, 'a record is written once'); END""",
    """CREATE TRIGGER reclaim_records_not_deleted BEFORE DELETE ON reclaim_records
    BEGIN SELECT RAISE(ABORT, 'a record is written once'); END""",
)


def upgrade() -> None:
    _create_proof()
    _create_groups()
    op.add_column("hosts", sa.Column("reclaim_policy", sa.String(32), nullable=False, server_default="clean"))
    op.add_column("hosts", sa.Column("drains_to", sa.String(32), nullable=True))
    _move_manifests()
    op.drop_column("hosts", "manifest")
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)


def _create_proof() -> None:
    op.create_table(
        "proof_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("public_key", JSON, nullable=False),
        sa.Column("first_used_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proof_keys")),
    )
    op.create_table(
        "host_manifests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("index_digest", sa.String(64), nullable=True),
        sa.Column("index", sa.LargeBinary(), nullable=True),
        sa.Column("signature", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_host_manifests_host_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host_manifests")),
        sa.UniqueConstraint("host_id", "number", name=op.f("uq_host_manifests_host_id_number")),
    )
    op.create_table(
        "reclaim_records",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("summary", JSON, nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_reclaim_records_host_id")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_reclaim_records_operation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reclaim_records")),
        sa.UniqueConstraint("host_id", "number", name=op.f("uq_reclaim_records_host_id_number")),
        sa.UniqueConstraint("operation_id", name=op.f("uq_reclaim_records_operation_id")),
    )


def _create_groups() -> None:
    op.create_table(
        "operation_groups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("arguments", JSON, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("at_once", sa.Integer(), nullable=False),
        sa.Column("max_failures", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("retries", sa.Uuid(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["retries"], ["operation_groups.id"], name=op.f("fk_operation_groups_retries")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation_groups")),
    )
    op.create_index(op.f("ix_operation_groups_state"), "operation_groups", ["state"], unique=False)
    op.create_table(
        "operation_group_members",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["group_id"], ["operation_groups.id"], name=op.f("fk_operation_group_members_group_id")
        ),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_operation_group_members_host_id")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_operation_group_members_operation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation_group_members")),
        sa.UniqueConstraint("group_id", "host_id", name=op.f("uq_operation_group_members_group_id_host_id")),
    )


def _move_manifests() -> None:
    """What was recorded before this release is kept, unsigned."""
    connection = op.get_bind()
    hosts = sa.table("hosts", sa.column("id", sa.Uuid()), sa.column("manifest", JSON))
    kept = sa.table(
        "host_manifests",
        *(sa.column(name, sa.Uuid()) for name in ("id", "host_id")),
        *(sa.column(name) for name in ("number", "digest", "document")),
        sa.column("created_at", MOMENT),
    )
    now = datetime.now(UTC)
    moment = now.replace(tzinfo=None) if connection.dialect.name == "sqlite" else now
    for host_id, manifest in connection.execute(sa.select(hosts)).all():
        if manifest is None:
            continue
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        row = {"id": new_id(), "host_id": host_id, "number": 1, "created_at": moment}
        row |= {"digest": sha256(text).hexdigest(), "document": zlib.compress(text)}
        connection.execute(sa.insert(kept).values(row))


def downgrade() -> None:
    raise RuntimeError("proofs are not taken back; restore a backup instead")
