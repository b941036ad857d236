"""What Alembic runs to migrate: the revisions, on the connection that ``upgrade`` hands over."""

from alembic import context

from storage.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
