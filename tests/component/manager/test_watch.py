"""Seeing changes of the database, whatever goes wrong at one of them."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from cafs.manager.database import Database, parse_database
from cafs.manager.migrate import upgrade
from cafs.manager.services.watch import Watch
from tests.support.asyncio_thread import run_asyncio
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S


def test_a_mistake_at_one_change_does_not_end_the_watch(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("a mistake at what was changed")

    async def main(database: Database) -> None:
        calls = 0
        again = asyncio.Event()

        async def act() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ValueError("a mistake")
            again.set()

        watching = asyncio.create_task(Watch(database, act).run())
        async with asyncio.timeout(PATIENCE_S):
            await again.wait()
        watching.cancel()

    with Database(parse_database("", tmp_path / "manager.db")) as database:
        upgrade(database)
        run_asyncio(partial(main, database))
