"""What is deleted of what a host holds, on real stores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cafs.core.settings import Settings
from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.task import TaskSpec
from cafs.p2p.task_store import open_task_store
from cafs.p2p.tidy import collect_garbage
from cafs.p2p.work import Result, Work
from cafs.store.chunk_store import ChunkStore

pytestmark = pytest.mark.usefixtures("bounded")


async def test_what_comes_into_use_while_others_are_deleted_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result: Result = {}

    async def collect(work: Work) -> None:
        result.update(await collect_garbage(work, 60))

    with ChunkStore.open(tmp_path / "store", 16 << 20) as chunks:
        async with open_task_store(tmp_path / "tasks", 1 << 20) as tasks, trio.open_nursery() as nursery:
            first, second = [
                await tasks.take(TaskSpec(task_id=TaskId(number * 64), url="", digest=None))
                for number in "12"
            ]
            later = time.time() + 3600
            monkeypatch.setattr(time, "time", lambda: later)
            unused = cast(Any, None)
            nursery.start_soon(
                collect,
                Work(
                    settings=Settings(cache_dir=tmp_path, run_dir=tmp_path),
                    engine=unused,
                    tasks=tasks,
                    exchange=unused,
                    chunks=chunks,
                    repositories=unused,
                    profiles=unused,
                    nursery=nursery,
                ),
            )
            while tasks.find(first.id) is not None:  # noqa: ASYNC110, RUF100 - it goes before its files do
                await trio.lowlevel.checkpoint()
            with second.use():
                while not result:  # noqa: ASYNC110 - the nursery waits for more than that
                    await trio.sleep(0.01)
                assert tasks.tasks() == [second]
            assert result["tasks"] == 1
