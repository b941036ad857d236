"""Work in hand, under the unguessable ids that addresses of the dashboard hold."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "kept_work",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_kept_work_used_at", "kept_work", ["used_at"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("kept_work")
