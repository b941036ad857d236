"""Schema revisions; Alembic applies each once."""
