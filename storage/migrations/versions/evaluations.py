"""Evaluations, with the texts of each of their cells."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "evaluations",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False, unique=True),
        sa.Column("instruction", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("n_cells", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("best_sae_arm", sa.Text(), nullable=False),
        sa.Column("best_strict", sa.Float(53)),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
    )
    op.create_index("ix_evaluations_instruction", "evaluations", ["instruction"])
    op.create_table(
        "evaluation_texts",
        sa.Column("number", number, primary_key=True, autoincrement=False),
        sa.Column("cell", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("texts", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("evaluation_texts")
    op.drop_table("evaluations")
