"""An allocation has one open change of each kind at most; open ones are found without those decided."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OPEN = sa.text("state = 'requested'")
INDEXES = (
    ("uq_allocation_changes_open", ["allocation_id", "kind"], True),
    ("ix_allocation_changes_open", ["id"], False),
)


def upgrade() -> None:
    for name, columns, unique in INDEXES:
        op.create_index(
            name, "allocation_changes", columns, unique=unique, sqlite_where=OPEN, postgresql_where=OPEN
        )


def downgrade() -> None:
    for name, _, _ in INDEXES:
        op.drop_index(name, "allocation_changes")
