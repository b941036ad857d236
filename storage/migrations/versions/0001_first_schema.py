"""First schema: sessions, jobs, activation cache."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "steering_session",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("instruction", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("sae", sa.Text, nullable=False),
        sa.Column("search_text", sa.Text, nullable=False),
        sa.Column("n_prompts", sa.Integer, nullable=False),
        sa.Column("share_id", sa.String(64), unique=True),
        sa.Column("deleted_at", sa.String(32)),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False, index=True),
        sa.Column("record", sa.JSON, nullable=False),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False, index=True),
        sa.Column("heartbeat_at", sa.String(32), nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
    )
    op.create_table(
        "activation_cache",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("n_bytes", sa.Integer, nullable=False),
        sa.Column("used_at", sa.Integer, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_activation_cache_used_at", "activation_cache", ["used_at"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("activation_cache", "job", "steering_session"):
        op.drop_table(table)
