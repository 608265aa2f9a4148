"""Runs the migrations of one database, on the engine that the opener hands over."""

from alembic import context
from sqlalchemy import Engine

engine: Engine = context.config.attributes["engine"]
with engine.execution_options(snaphold_writes=True).connect() as connection:
    context.configure(connection=connection, target_metadata=None, transactional_ddl=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
