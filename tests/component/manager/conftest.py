"""Databases of both kinds, and a manager on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.console import Console, Visitor, running_chromium, running_console, visiting
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """One for all tests that do not mind others' changes; ``root`` is there."""
    with running_console(tmp_path_factory.mktemp("console")) as running:
        running.set_up()
        yield running


@pytest.fixture
def visitor(chromium: Browser, console: Console) -> Iterator[Visitor]:
    """Somebody at that console, not signed in."""
    with visiting(chromium, console, viewport={"width": 1280, "height": 800}) as somebody:
        yield somebody
