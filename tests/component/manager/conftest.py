"""Databases of both kinds, and a manager on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.manager import Manager, options_for, running_manager
from tests.support.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests; use a database of your own."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_address(request: pytest.FixtureRequest) -> str:
    """An empty database, as ``manager_database`` says it."""
    if request.param == "sqlite":
        return ""
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.new_database())


@pytest.fixture
def manager(tmp_path: Path, database_address: str) -> Iterator[Manager]:
    """A running one, on either database."""
    with running_manager(options_for(tmp_path, database_address)) as running:
        yield running


@pytest.fixture(scope="session")
def nonsense_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """One on SQLite, for everything that must leave no trace."""
    with running_manager(options_for(tmp_path_factory.mktemp("nonsense"))) as running:
        yield running
