"""Indexes that nobody may see, as they are being imported or deleted step by step."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; every index that is there is whole."""
    op.add_column("latent_indexes", sa.Column("pending_at", sa.BigInteger()))


def downgrade() -> None:
    """Remove the column."""
    op.drop_column("latent_indexes", "pending_at")
