"""Alembic's entry point: it works on the connection that `controlplane.store.schema` hands over, in its transaction."""  # noqa: INP001 - a folder of scripts

from alembic import context

from controlplane.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by building it anew
)
with context.begin_transaction():
    context.run_migrations()
