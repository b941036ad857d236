"""Short binary keys for the cache; what it held is dropped, as everything can be computed again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the cache and create it anew."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.drop_table("activations")
    op.create_table(
        "activations",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("key", sa.LargeBinary(), nullable=False, unique=True),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_activations_used_at_n_bytes", "activations", ["used_at", "n_bytes"])
    op.create_table(
        "activation_tails",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("piece", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    """Drop the cache and create it as it was."""
    op.drop_table("activation_tails")
    op.drop_table("activations")
    op.create_table(
        "activations",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_activations_used_at_n_bytes", "activations", ["used_at", "n_bytes"])
