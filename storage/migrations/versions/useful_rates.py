"""The useful rate of an evaluation's best arm, for lists."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of older evaluations nobody knows it."""
    op.add_column("evaluations", sa.Column("best_useful", sa.Float(53)))


def downgrade() -> None:
    """Remove the column."""
    op.drop_column("evaluations", "best_useful")
