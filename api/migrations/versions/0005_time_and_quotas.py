"""The ledger knows time, approval, budgets and prices: its tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from api.core.columns import Exact
from api.core.ids import new_id

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
OPEN = "state IN ('requested', 'queued', 'reserved', 'active')"
UNGRANTED = sa.text("state IN ('requested', 'queued', 'reserved')")
ACTIVE = sa.text("state = 'active'")
UNCLOSED = sa.text("closed_at IS NULL")


def upgrade() -> None:
    for name in ("holds_counted_in", "holds_counted_out", "holds_closed_once"):  # they come back in 0006
        on = "" if op.get_bind().dialect.name == "sqlite" else " ON holds"
        op.execute(f"DROP TRIGGER {name}{on}")
    _organisations()
    _quotas()
    _budgets()
    _rates()
    if op.get_bind().dialect.name == "sqlite":
        _allocations_anew()
    else:
        _allocations_in_place()
    _allocation_indexes()
    _holds_and_gpus()
    _reservations()
    _decisions()
    _notices_findings_keys()


def _organisations() -> None:
    op.create_table(
        "organisations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organisations")),
        sa.UniqueConstraint("slug", name=op.f("uq_organisations_slug")),
    )
    first = sa.table("organisations", sa.column("id", sa.Uuid()), *map(sa.column, ("slug", "name")))
    own_id = new_id()
    made = {"id": own_id, "slug": "default", "name": "Default", "created_at": datetime.now(UTC)}
    first.append_column(sa.column("created_at", MOMENT))
    op.bulk_insert(first, [made])
    for column in (
        sa.Column("organisation_id", sa.Uuid(), nullable=True),
        sa.Column("approval", sa.String(32), nullable=False, server_default="none"),
        sa.Column("time_zone", sa.String(), nullable=False, server_default="UTC"),
    ):
        op.add_column("workspaces", column)
    workspaces = sa.table("workspaces", sa.column("organisation_id", sa.Uuid()))
    op.execute(workspaces.update().values(organisation_id=own_id))
    op.add_column("memberships", sa.Column("id", sa.Uuid(), nullable=True))
    _number_memberships()
    op.create_index(op.f("ix_workspaces_organisation_id"), "workspaces", ["organisation_id"])
    with op.batch_alter_table("workspaces") as workspaces_anew:
        workspaces_anew.alter_column("organisation_id", existing_type=sa.Uuid(), nullable=False)
        workspaces_anew.create_foreign_key(
            op.f("fk_workspaces_organisation_id"), "organisations", ["organisation_id"], ["id"]
        )
    with op.batch_alter_table("memberships") as memberships_anew:
        memberships_anew.alter_column("id", existing_type=sa.Uuid(), nullable=False)
        memberships_anew.create_unique_constraint(op.f("uq_memberships_id"), ["id"])


def _number_memberships() -> None:
    names = ("id", "workspace_id", "user_id")
    members = sa.table("memberships", *(sa.column(name, sa.Uuid()) for name in names))
    for row in op.get_bind().execute(sa.select(members.c.workspace_id, members.c.user_id)).all():
        one = sa.and_(members.c.workspace_id == row.workspace_id, members.c.user_id == row.user_id)
        op.execute(members.update().where(one).values(id=new_id()))


def _quotas() -> None:
    old = sa.table(
        "quotas", sa.column("workspace_id", sa.Uuid()), *map(sa.column, ("model", "gpu_limit", "gpus_held"))
    )
    rows = op.get_bind().execute(sa.select(old)).all()
    op.drop_table("quotas")
    made = op.create_table(
        "quotas",
        sa.Column("scope_id", sa.Uuid(), nullable=False),
        sa.Column("resource", sa.String(32), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("scope", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("hard_limit", sa.BigInteger(), nullable=True),
        sa.Column("soft_limit", sa.BigInteger(), nullable=True),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("hard_limit >= 0", name=op.f("ck_quotas_limit_not_negative")),
        sa.CheckConstraint("soft_limit >= 0", name=op.f("ck_quotas_soft_not_negative")),
        sa.CheckConstraint("used >= 0", name=op.f("ck_quotas_used_not_negative")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_quotas_workspace_id")),
        sa.PrimaryKeyConstraint("scope_id", "resource", "model", name=op.f("pk_quotas")),
    )
    op.create_index(op.f("ix_quotas_workspace_id"), "quotas", ["workspace_id"])
    kept = [
        {
            "scope_id": row.workspace_id,
            "resource": "gpus",
            "model": row.model,
            "scope": "workspace",
            "workspace_id": row.workspace_id,
            "hard_limit": row.gpu_limit,
            "used": row.gpus_held,
        }
        for row in rows
    ]
    if kept:
        op.bulk_insert(made, kept)


def _budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("scope_id", sa.Uuid(), nullable=False),
        sa.Column("resource", sa.String(32), nullable=False),
        sa.Column("scope", sa.String(32), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("hard_limit", Exact(), nullable=True),
        sa.Column("soft_limit", Exact(), nullable=True),
        sa.CheckConstraint("hard_limit >= 0", name=op.f("ck_budgets_limit_not_negative")),
        sa.CheckConstraint("soft_limit >= 0", name=op.f("ck_budgets_soft_not_negative")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_budgets_workspace_id")),
        sa.PrimaryKeyConstraint("scope_id", "resource", name=op.f("pk_budgets")),
    )
    op.create_index(op.f("ix_budgets_workspace_id"), "budgets", ["workspace_id"])
    op.create_table(
        "budget_periods",
        sa.Column("scope_id", sa.Uuid(), nullable=False),
        sa.Column("resource", sa.String(32), nullable=False),
        sa.Column("period_start", MOMENT, nullable=False),
        sa.Column("period_end", MOMENT, nullable=False),
        sa.Column("committed", Exact(), nullable=False),
        sa.Column("overrun", Exact(), nullable=False),
        sa.CheckConstraint("committed >= 0", name=op.f("ck_budget_periods_committed_not_negative")),
        sa.CheckConstraint("period_end > period_start", name=op.f("ck_budget_periods_ends_after_start")),
        sa.ForeignKeyConstraint(
            ["scope_id", "resource"],
            ["budgets.scope_id", "budgets.resource"],
            name=op.f("fk_budget_periods_scope_id_resource"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("scope_id", "resource", "period_start", name=op.f("pk_budget_periods")),
    )


def _rates() -> None:
    op.create_table(
        "rates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("per_gpu_hour", Exact(), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("effective_from", MOMENT, nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("per_gpu_hour >= 0", name=op.f("ck_rates_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rates")),
        sa.UniqueConstraint(
            "model", "region", "effective_from", name=op.f("uq_rates_model_region_effective_from")
        ),
    )


def _allocation_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("why", JSON, nullable=True),
        sa.Column("not_before", MOMENT, nullable=True),
        sa.Column("duration_seconds", sa.Integer(), nullable=True),
        sa.Column("ends_at", MOMENT, nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("preemptible", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("preempt_at", MOMENT, nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_by_id", sa.Uuid(), nullable=True),
        sa.Column("decided_at", MOMENT, nullable=True),
        sa.Column("price_per_hour", Exact(), nullable=True),
        sa.Column("currency", sa.String(3), nullable=True),
    ]


def _checks() -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint(f"({OPEN}) = (ended_at IS NULL)", name=op.f("ck_allocations_open_has_no_end")),
        sa.CheckConstraint(
            "ended_at IS NULL OR started_at IS NULL OR ended_at > started_at",
            name=op.f("ck_allocations_ends_after_start"),
        ),
        sa.CheckConstraint(
            "state <> 'active' OR (started_at IS NOT NULL AND ends_at IS NOT NULL AND ends_at >= expires_at)",
            name=op.f("ck_allocations_active_has_times"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('requested', 'queued', 'reserved') OR started_at IS NULL",
            name=op.f("ck_allocations_not_begun"),
        ),
    ]


def _allocations_anew() -> None:
    op.create_table(
        "allocations_next",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("requested_by_id", sa.Uuid(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("wanted", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        *_allocation_columns(),
        *_checks(),
        sa.ForeignKeyConstraint(
            ["requested_by_id"], ["users.id"], name=op.f("fk_allocations_requested_by_id")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_allocations_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocations")),
    )
    names = (
        "id, workspace_id, requested_by_id, requested_by, state, wanted, created_at, started_at, "
        "expires_at, ended_at"
    )
    op.execute(f"INSERT INTO allocations_next ({names}, ends_at) SELECT {names}, expires_at FROM allocations")
    op.drop_table("allocations")
    op.rename_table("allocations_next", "allocations")


def _allocations_in_place() -> None:
    for name in ("active_is_open", "ends_after_start"):
        op.drop_constraint(op.f(f"ck_allocations_{name}"), "allocations")
    op.drop_constraint(
        op.f("uq_allocations_workspace_id_requested_by_id_idempotency_key"), "allocations", type_="unique"
    )
    op.drop_column("allocations", "idempotency_key")
    op.drop_column("allocations", "request_digest")
    for name in ("expiry", "requested_by_id", "workspace_id"):
        op.drop_index(f"ix_allocations_{name}", "allocations")
    for column in _allocation_columns():
        op.add_column("allocations", column)
    op.alter_column("allocations", "started_at", nullable=True)
    op.alter_column("allocations", "expires_at", nullable=True)
    op.execute("UPDATE allocations SET ends_at = expires_at")
    for check in _checks():
        op.create_check_constraint(op.f(str(check.name)), "allocations", check.sqltext)


def _allocation_indexes() -> None:
    for name, columns, where in (
        ("expiry", ["expires_at"], ACTIVE),
        ("end", ["ends_at"], ACTIVE),
        ("preemption", ["preempt_at"], sa.text("preempt_at IS NOT NULL AND state = 'active'")),
        ("ungranted", ["state", "created_at"], UNGRANTED),
        ("requested_by_id", ["requested_by_id", "id"], None),
        ("workspace_id", ["workspace_id", "id"], None),
        ("state", ["state", "id"], None),
    ):
        op.create_index(
            f"ix_allocations_{name}", "allocations", columns, sqlite_where=where, postgresql_where=where
        )


def _holds_and_gpus() -> None:
    op.add_column("holds", sa.Column("user_id", sa.Uuid(), nullable=True))
    op.add_column("holds", sa.Column("rate", Exact(), nullable=True))
    op.drop_index("ix_holds_workspace_id", "holds")
    op.create_index("ix_holds_workspace_id", "holds", ["workspace_id", "ended_at"])
    op.add_column("gpus", sa.Column("held_until", MOMENT, nullable=True))
    op.add_column("gpus", sa.Column("booked_from", MOMENT, nullable=True))
    op.add_column("gpus", sa.Column("host_lent", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE gpus SET host_lent = (1 = 1) "
        "WHERE host_id IN (SELECT id FROM hosts WHERE state = 'allocated')"
    )
    op.drop_index("ix_gpus_free", "gpus")
    op.create_index(
        "ix_gpus_free",
        "gpus",
        ["host_lent", "host_id", "index"],
        sqlite_where=sa.text("schedulable = 1 AND held_by IS NULL"),
        postgresql_where=sa.text("schedulable AND held_by IS NULL"),
    )
    op.execute(
        "UPDATE gpus SET held_until = (SELECT ends_at FROM allocations WHERE allocations.id = gpus.held_by) "
        "WHERE held_by IS NOT NULL"
    )


def _reservations() -> None:
    op.create_table(
        "reservations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("allocation_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("gpu_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("starts_at", MOMENT, nullable=False),
        sa.Column("ends_at", MOMENT, nullable=False),
        sa.Column("free_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT, nullable=True),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_reservations_ends_after_start")),
        sa.CheckConstraint("free_at >= ends_at", name=op.f("ck_reservations_free_after_end")),
        sa.ForeignKeyConstraint(
            ["allocation_id"], ["allocations.id"], name=op.f("fk_reservations_allocation_id")
        ),
        sa.ForeignKeyConstraint(["gpu_id"], ["gpus.id"], name=op.f("fk_reservations_gpu_id")),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_reservations_host_id")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_reservations_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index(op.f("ix_reservations_allocation_id"), "reservations", ["allocation_id"])
    for name, columns in (("gpu", ["gpu_id", "starts_at"]), ("workspace", ["workspace_id", "starts_at"])):
        op.create_index(
            f"ix_reservations_{name}",
            "reservations",
            columns,
            sqlite_where=UNCLOSED,
            postgresql_where=UNCLOSED,
        )


def _decisions() -> None:
    op.create_table(
        "allocation_changes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("allocation_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("asked", JSON, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_by_id", sa.Uuid(), nullable=True),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_by_id", sa.Uuid(), nullable=True),
        sa.Column("decided_at", MOMENT, nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["allocation_id"], ["allocations.id"], name=op.f("fk_allocation_changes_allocation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocation_changes")),
    )
    op.create_index(op.f("ix_allocation_changes_allocation_id"), "allocation_changes", ["allocation_id"])
    op.create_table(
        "approval_rules",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("approver", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_approval_rules")),
    )


def _notices_findings_keys() -> None:
    op.create_table(
        "notices",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("facts", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("key", name=op.f("uq_notices_key")),
    )
    op.create_index(op.f("ix_notices_workspace_id"), "notices", ["workspace_id", "id"])
    op.create_index(op.f("ix_notices_subject_id"), "notices", ["subject_id", "id"])
    op.create_table(
        "findings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=True),
        sa.Column("allocation_id", sa.Uuid(), nullable=True),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("policy", sa.String(32), nullable=False),
        sa.Column("first_seen_at", MOMENT, nullable=False),
        sa.Column("last_seen_at", MOMENT, nullable=False),
        sa.Column("warned_at", MOMENT, nullable=True),
        sa.Column("act_at", MOMENT, nullable=True),
        sa.Column("resolved_at", MOMENT, nullable=True),
        sa.Column("resolved_by", sa.String(), nullable=True),
        sa.Column("resolution", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
    )
    unresolved = sa.text("resolved_at IS NULL")
    op.create_index(
        "uq_findings_open",
        "findings",
        ["kind", "subject_id"],
        unique=True,
        sqlite_where=unresolved,
        postgresql_where=unresolved,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("method", sa.String(8), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("headers", JSON, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency_keys")),
        sa.UniqueConstraint("actor", "key", name=op.f("uq_idempotency_keys_actor_key")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"])


def downgrade() -> None:
    raise RuntimeError("what the ledger knows of time is not taken back; restore a backup instead")
