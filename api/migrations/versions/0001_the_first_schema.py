"""the first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("before", JSON, nullable=True),
        sa.Column("after", JSON, nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    op.create_index(op.f("ix_audit_events_subject_id"), "audit_events", ["subject_id"], unique=False)
    op.create_table(
        "hosts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("ssh_user", sa.String(), nullable=False),
        sa.Column("key_reference", sa.String(), nullable=True),
        sa.Column("sealed_key", sa.String(), nullable=True),
        sa.Column("host_keys", JSON, nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("state_since", MOMENT, nullable=False),
        sa.Column("cordoned", sa.Boolean(), nullable=False),
        sa.Column("failed_step", sa.String(), nullable=True),
        sa.Column("failed_reason", sa.String(), nullable=True),
        sa.Column("facts", JSON, nullable=True),
        sa.Column("manifest", JSON, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hosts")),
    )
    op.create_index(op.f("ix_hosts_region"), "hosts", ["region"], unique=False)
    op.create_index(op.f("ix_hosts_state"), "hosts", ["state"], unique=False)
    op.create_index(
        "uq_hosts_address",
        "hosts",
        ["address", "port"],
        unique=True,
        sqlite_where=sa.text("state <> 'retired'"),
        postgresql_where=sa.text("state <> 'retired'"),
    )
    op.create_index(
        "uq_hosts_name",
        "hosts",
        ["name"],
        unique=True,
        sqlite_where=sa.text("state <> 'retired'"),
        postgresql_where=sa.text("state <> 'retired'"),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("step", sa.String(), nullable=True),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("arguments", JSON, nullable=False),
        sa.Column("outcome", JSON, nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_by_id", sa.Uuid(), nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("heartbeat_at", MOMENT, nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.UniqueConstraint(
            "requested_by_id", "idempotency_key", name=op.f("uq_operations_requested_by_id_idempotency_key")
        ),
    )
    op.create_index(op.f("ix_operations_kind"), "operations", ["kind"], unique=False)
    op.create_index(op.f("ix_operations_requested_by_id"), "operations", ["requested_by_id"], unique=False)
    op.create_index(op.f("ix_operations_subject_id"), "operations", ["subject_id"], unique=False)
    op.create_index(op.f("ix_operations_worker"), "operations", ["worker"], unique=False)
    op.create_index(
        "uq_operations_open_subject",
        "operations",
        ["subject_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("password_expires_at", MOMENT, nullable=True),
        sa.Column("token_generation", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("heartbeat_at", MOMENT, nullable=False),
        sa.Column("stopped_at", MOMENT, nullable=True),
        sa.Column("recovered_by", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspaces")),
        sa.UniqueConstraint("slug", name=op.f("uq_workspaces_slug")),
    )
    op.create_table(
        "allocations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("requested_by_id", sa.Uuid(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("wanted", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("request_digest", sa.String(), nullable=False),
        sa.CheckConstraint(
            "(state = 'active') = (ended_at IS NULL)", name=op.f("ck_allocations_active_is_open")
        ),
        sa.CheckConstraint(
            "ended_at IS NULL OR ended_at > started_at", name=op.f("ck_allocations_ends_after_start")
        ),
        sa.ForeignKeyConstraint(
            ["requested_by_id"], ["users.id"], name=op.f("fk_allocations_requested_by_id")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_allocations_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocations")),
        sa.UniqueConstraint(
            "workspace_id",
            "requested_by_id",
            "idempotency_key",
            name=op.f("uq_allocations_workspace_id_requested_by_id_idempotency_key"),
        ),
    )
    op.create_index(
        "ix_allocations_expiry",
        "allocations",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_index(op.f("ix_allocations_requested_by_id"), "allocations", ["requested_by_id"], unique=False)
    op.create_index(op.f("ix_allocations_workspace_id"), "allocations", ["workspace_id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("last_used_at", MOMENT, nullable=True),
        sa.Column("revoked_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_index(op.f("ix_api_keys_user_id"), "api_keys", ["user_id"], unique=False)
    op.create_table(
        "gpus",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("architecture", sa.String(), nullable=True),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("pci_address", sa.String(), nullable=True),
        sa.Column("serial", sa.String(), nullable=True),
        sa.Column("vbios", sa.String(), nullable=True),
        sa.Column("numa_node", sa.Integer(), nullable=True),
        sa.Column("nvlink_domain", sa.String(), nullable=True),
        sa.Column("mig_mode", sa.String(), nullable=True),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("health", sa.String(32), nullable=False),
        sa.Column("health_reasons", JSON, nullable=False),
        sa.Column("schedulable", sa.Boolean(), nullable=False),
        sa.Column("held_by", sa.Uuid(), nullable=True),
        sa.Column("free_since", MOMENT, nullable=False),
        sa.Column("enrolled_at", MOMENT, nullable=False),
        sa.Column("removed_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_gpus_host_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gpus")),
    )
    op.create_index(
        "ix_gpus_free",
        "gpus",
        ["host_id", "index"],
        unique=False,
        sqlite_where=sa.text("schedulable = 1 AND held_by IS NULL"),
        postgresql_where=sa.text("schedulable AND held_by IS NULL"),
    )
    op.create_index(op.f("ix_gpus_held_by"), "gpus", ["held_by"], unique=False)
    op.create_index(op.f("ix_gpus_host_id"), "gpus", ["host_id"], unique=False)
    op.create_index(
        "uq_gpus_uuid",
        "gpus",
        ["uuid"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_table(
        "host_periods",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "ended_at IS NULL OR ended_at >= started_at", name=op.f("ck_host_periods_ends_after_start")
        ),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_host_periods_host_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host_periods")),
    )
    op.create_index(op.f("ix_host_periods_host_id"), "host_periods", ["host_id"], unique=False)
    op.create_index(
        "uq_host_periods_open",
        "host_periods",
        ["host_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "memberships",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_memberships_workspace_id")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"], unique=False)
    op.create_table(
        "operation_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("step", sa.String(), nullable=True),
        sa.Column("task", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_operation_events_operation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation_events")),
    )
    op.create_index(
        op.f("ix_operation_events_operation_id"), "operation_events", ["operation_id"], unique=False
    )
    op.create_table(
        "quotas",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("gpu_limit", sa.Integer(), nullable=False),
        sa.Column("gpus_held", sa.Integer(), nullable=False),
        sa.CheckConstraint("gpu_limit >= 0", name=op.f("ck_quotas_limit_not_negative")),
        sa.CheckConstraint("gpus_held >= 0", name=op.f("ck_quotas_held_not_negative")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_quotas_workspace_id")),
        sa.PrimaryKeyConstraint("workspace_id", "model", name=op.f("pk_quotas")),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("allocation_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("gpu_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "ended_at IS NULL OR ended_at > started_at", name=op.f("ck_holds_ends_after_start")
        ),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_holds_allocation_id")),
        sa.ForeignKeyConstraint(["gpu_id"], ["gpus.id"], name=op.f("fk_holds_gpu_id")),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_holds_host_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_holds_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index(op.f("ix_holds_allocation_id"), "holds", ["allocation_id"], unique=False)
    op.create_index(op.f("ix_holds_host_id"), "holds", ["host_id"], unique=False)
    op.create_index("ix_holds_time", "holds", ["gpu_id", "started_at"], unique=False)
    op.create_index(op.f("ix_holds_workspace_id"), "holds", ["workspace_id"], unique=False)
    op.create_index(
        "uq_holds_open",
        "holds",
        ["gpu_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    for table in (
        "holds",
        "quotas",
        "operation_events",
        "memberships",
        "host_periods",
        "gpus",
        "api_keys",
        "allocations",
        "workspaces",
        "workers",
        "users",
        "operations",
        "hosts",
        "audit_events",
    ):
        op.drop_table(table)
