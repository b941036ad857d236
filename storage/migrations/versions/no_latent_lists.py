"""Lists of the largest activations go: profiles say more of each latent."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the lists."""
    op.drop_table("latent_lists")


def downgrade() -> None:
    """Create the lists, empty."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "latent_lists",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("lists", sa.LargeBinary(), nullable=False),
    )
