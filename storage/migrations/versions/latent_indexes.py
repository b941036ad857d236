"""Latent activations of a corpus: its indexes, their contexts and lists."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "latent_indexes",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False, unique=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model_sha256", sa.Text(), nullable=False),
        sa.Column("sae_sha256", sa.Text(), nullable=False),
        sa.Column("d_sae", sa.Integer(), nullable=False),
        sa.Column("hook_point", sa.Text(), nullable=False),
        sa.Column("n_contexts", sa.BigInteger(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_nonzero", sa.BigInteger(), nullable=False),
        sa.Column("n_listed", sa.BigInteger(), nullable=False),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("density", sa.LargeBinary()),
    )
    op.create_table(
        "corpus_contexts",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("activations", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "latent_lists",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("lists", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("latent_lists")
    op.drop_table("corpus_contexts")
    op.drop_table("latent_indexes")
