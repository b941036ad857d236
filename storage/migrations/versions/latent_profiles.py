"""Profiles of latents, full-text search over them, and what people and methods say of latents."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The texts are words with spaces between them already, so every tokenizer need only split them.
# The index keeps no copy of the texts: SQLite looks them up in latent_texts.
SQLITE_SEARCH = """
CREATE VIRTUAL TABLE latent_search USING fts5(
    label, promotes, fires_on, examples,
    content='latent_texts', content_rowid='id', tokenize='ascii'
)
"""
ADD_WORDS = """
INSERT INTO latent_search(rowid, label, promotes, fires_on, examples)
VALUES (new.id, new.label, new.promotes, new.fires_on, new.examples);
"""
REMOVE_WORDS = """
INSERT INTO latent_search(latent_search, rowid, label, promotes, fires_on, examples)
VALUES ('delete', old.id, old.label, old.promotes, old.fires_on, old.examples);
"""
TRIGGERS = {
    "INSERT": ADD_WORDS,
    "DELETE": REMOVE_WORDS,
    "UPDATE": REMOVE_WORDS + ADD_WORDS,
}

POSTGRESQL_SEARCH = """
ALTER TABLE latent_texts ADD COLUMN latent_search tsvector GENERATED ALWAYS AS (
    setweight(to_tsvector('simple'::regconfig, label), 'A')
    || setweight(to_tsvector('simple'::regconfig, promotes), 'B')
    || setweight(to_tsvector('simple'::regconfig, fires_on), 'B')
    || setweight(to_tsvector('simple'::regconfig, examples), 'D')
) STORED
"""


def upgrade() -> None:
    """Create the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    for name in ("sae_id", "source_sha256"):
        column = sa.Column(name, sa.Text(), nullable=False, server_default="")
        op.add_column("latent_indexes", column)
    op.create_table(
        "latents",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("n_fired", sa.BigInteger(), nullable=False),
        sa.Column("maximum", sa.Float(53), nullable=False),
        sa.Column("s_in", sa.Float(53)),
        sa.Column("s_out", sa.Float(53)),
    )
    op.create_table(
        "latent_profiles",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("promotes", sa.Text(), nullable=False),
        sa.Column("profile", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "latent_texts",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("promotes", sa.Text(), nullable=False),
        sa.Column("fires_on", sa.Text(), nullable=False),
        sa.Column("examples", sa.Text(), nullable=False),
    )
    op.create_table(
        "latent_notes",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False, unique=True),
        sa.Column("sae_sha256", sa.Text(), nullable=False),
        sa.Column("latent", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
    )
    op.create_index("ix_latent_notes_sae_sha256_latent", "latent_notes", ["sae_sha256", "latent"])
    op.create_table(
        "latent_descriptions",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False, unique=True),
        sa.Column("sae_sha256", sa.Text(), nullable=False),
        sa.Column("latent", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("input_score", sa.Float(53)),
        sa.Column("output_score", sa.Float(53)),
        sa.Column("created_at", sa.Text(), nullable=False),
    )
    op.create_index(
        "ix_latent_descriptions_sae_sha256_latent", "latent_descriptions", ["sae_sha256", "latent"]
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(SQLITE_SEARCH)
        for event, statements in TRIGGERS.items():
            op.execute(
                f"CREATE TRIGGER latent_search_{event.lower()} AFTER {event} ON latent_texts "
                f"BEGIN {statements} END"
            )
    else:
        op.execute(POSTGRESQL_SEARCH)
        op.create_index(
            "latent_search_words", "latent_texts", ["latent_search"], postgresql_using="gin"
        )


def downgrade() -> None:
    """Remove the tables."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE latent_search")
    op.drop_table("latent_descriptions")
    op.drop_table("latent_notes")
    op.drop_table("latent_texts")
    op.drop_table("latent_profiles")
    op.drop_table("latents")
    op.drop_column("latent_indexes", "source_sha256")
    op.drop_column("latent_indexes", "sae_id")
