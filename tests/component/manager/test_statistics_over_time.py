"""Statistics of what was told some time ago, on both databases: written first, then asked for by REST."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cafs.core.statistics.amounts import LEVELS
from cafs.manager.database import Database
from cafs.manager.migrate import upgrade
from cafs.manager.statistics.asking import NOTHING, Step, carry_levels
from cafs.manager.statistics.incoming import Told
from cafs.manager.statistics.rows import Arrived
from cafs.manager.statistics.writing import write_reports
from tests.component.manager.test_statistics import LIFE, A, in_order, series
from tests.support.manager import options_for, running_manager

HOUR_S = 3600


def write(database: Database, now: int, told: Sequence[tuple[int, int]]) -> None:
    """Reports of one host that did nothing: how long ago, and the bytes of its store."""
    upgrade(database)
    for number, (ago_s, store_bytes) in enumerate(told, 1):
        levels = tuple(store_bytes if name == "store_bytes" else 0 for name in LEVELS)
        arrived = Arrived(A, 1, Told(LIFE, number, in_order({}), {}, {}, levels))
        with database.writing() as session:
            assert write_reports(session, [arrived], now - ago_s)


def test_an_idle_hosts_store_is_what_it_was(database_address: str, tmp_path: Path) -> None:
    options = options_for(tmp_path, database_address)
    now = int(time.time()) // HOUR_S * HOUR_S
    with Database(options.database) as database:
        write(database, now, [(5 * HOUR_S, 7), (2 * HOUR_S, 9)])
    with running_manager(options) as manager:
        admin = manager.administrator()

        def stores(begin: int, end: int, step_s: int) -> list[int | None]:
            times = "&".join(
                f"{name}={datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
                for name, at in (("from", begin), ("to", end))
            )
            found = series(manager, admin, f"metric=store_bytes&host_id={A}&step={step_s}&{times}")
            return list(found["store_bytes"])

        assert set(stores(now - HOUR_S, now, 60)) == {9}
        assert set(stores(now - 4 * HOUR_S, now - 3 * HOUR_S, HOUR_S)) == {7}
        assert stores(now - 7 * HOUR_S, now, HOUR_S) == [None, None, 7, 7, 7, 9, 9]
        assert set(stores(now - 9 * HOUR_S, now - 7 * HOUR_S, HOUR_S)) == {None}


def test_levels_are_carried_and_amounts_are_not() -> None:
    steps = [NOTHING, Step({"requests": 1}, {"tasks": 4, "store_bytes": None}), NOTHING]
    carried = carry_levels(steps, {"tasks": 3, "store_bytes": None})
    assert [step.levels["tasks"] for step in carried] == [3, 4, 4]
    assert [step.levels["store_bytes"] for step in carried] == [None] * 3
    assert [step.amounts for step in carried] == [{}, {"requests": 1}, {}]
