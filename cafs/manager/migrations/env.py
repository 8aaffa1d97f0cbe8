"""Run by Alembic for each upgrade, within the transaction that ``cafs.manager.migrate`` began."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
