"""Keys of repeated requests are kept for all requests alike; operations no longer have their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UNIQUE = "uq_operations_requested_by_id_idempotency_key"


def upgrade() -> None:
    with op.batch_alter_table("operations") as operations:
        operations.drop_constraint(op.f(UNIQUE), type_="unique")
        operations.drop_column("idempotency_key")


def downgrade() -> None:
    with op.batch_alter_table("operations") as operations:
        operations.add_column(sa.Column("idempotency_key", sa.String(), nullable=True))
        operations.create_unique_constraint(op.f(UNIQUE), ["requested_by_id", "idempotency_key"])
