"""Brings a database to the form that this version needs. At each start of a manager.

All steps that are missing run in one transaction, DDL too: whatever ends it, the database is as before or
as it should be. Replicas that start at once wait for each other.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from cafs.errors import StateError
from cafs.manager.database import Database

STEPS = Path(__file__).parent / "migrations"


def upgrade(database: Database, steps: Path = STEPS) -> None:
    """Run the steps that are missing.

    Raises:
        StateError: a newer version of CAFS has made it what it is.
        UnavailableError: it does not answer.
    """
    config = Config()
    config.set_main_option("script_location", str(steps).replace("%", "%%"))
    with database.reshaping() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        try:
            ScriptDirectory.from_config(config).get_revision(present or "base")
        except CommandError:
            raise StateError(
                f"{database.name} is of a newer CAFS (form {present}): use that, or a copy from before"
            ) from None
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
