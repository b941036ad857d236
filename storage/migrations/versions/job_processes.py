"""The process that runs a job, so that its end is known at once."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of older jobs nobody knows the process."""
    op.add_column("jobs", sa.Column("process", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Remove the column."""
    op.drop_column("jobs", "process")
