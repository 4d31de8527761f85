"""Whether a workspace has budgets is seen where it is locked; a reservation keeps its price."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from api.core.columns import Exact

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

FACTS = (
    "id",
    "allocation_id",
    "workspace_id",
    "user_id",
    "gpu_id",
    "host_id",
    "model",
    "rate",
    "starts_at",
    "ends_at",
    "free_at",
)


def upgrade() -> None:
    op.add_column("quotas", sa.Column("budgeted", sa.Boolean(), nullable=False, server_default=sa.false()))
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute("DROP TRIGGER reservations_closed_once" + ("" if sqlite else " ON reservations"))
    op.add_column("reservations", sa.Column("rate", Exact(), nullable=True))
    op.execute(_closed_once(sqlite=sqlite))


def _closed_once(*, sqlite: bool) -> str:
    differs = "IS NOT" if sqlite else "IS DISTINCT FROM"
    changed = " OR ".join(f"NEW.{fact} {differs} OLD.{fact}" for fact in FACTS)
    rule = "a reservation is closed once and never edited"
    when = f"OLD.closed_at IS NOT NULL OR NEW.closed_at IS NULL OR {changed}"
    if sqlite:
        return f"""CREATE TRIGGER reservations_closed_once BEFORE UPDATE ON reservations
            WHEN {when} BEGIN SELECT RAISE(ABORT, '{rule}'); END"""
    return f"""CREATE TRIGGER reservations_closed_once BEFORE UPDATE ON reservations FOR EACH ROW
        WHEN ({when}) EXECUTE FUNCTION ironyard_refuse('{rule}')"""


def downgrade() -> None:
    raise RuntimeError("what the ledger knows of budgets is not taken back; restore a backup instead")
