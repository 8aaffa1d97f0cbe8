"""Runs of pieces from the origin: what others hear of them."""

from __future__ import annotations

from pathlib import Path

import trio

from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.layout import MIN_PIECE_BYTES
from cafs.core.swarm.task import TaskSpec
from cafs.oci.registry.exchange import Patience
from cafs.p2p.source import Limits, Sources, Unpaced
from cafs.p2p.source_runs import Origin as From
from cafs.p2p.source_runs import SourceRuns
from cafs.p2p.task_files import NewPiece
from cafs.p2p.task_store import open_task_store
from tests.support.proxying import Origin

BODY = bytes(range(256)) * 4096 * 4
"""Four pieces."""


async def test_no_piece_is_said_to_come_that_the_run_does_not_read(tmp_path: Path, origin: Origin) -> None:
    said: set[int] = set()
    sources = Sources(Patience(connect_s=5.0, stall_s=30.0, room_s=30.0), Limits(), Unpaced())

    async def spend(_count: int) -> None:
        await trio.lowlevel.checkpoint()

    async with open_task_store(tmp_path / "tasks", 64 * MIN_PIECE_BYTES) as store:
        task = await store.take(TaskSpec(task_id=TaskId("a" * 64), url=f"{origin.url}/f"))

        async def keep(number: int, piece: bytes | bytearray) -> None:
            assert await task.put_pieces([NewPiece(number, piece)]) == [None]

        runs = SourceRuns(
            sources,
            task,
            From(url=task.spec.url),
            tell_meta=lambda _meta: None,
            keep=keep,
            reads=lambda: said.update(runs.reading),
            spend=spend,
        )
        await runs.begin(0)
        assert said == {0}
        await runs.run(1, 2)
        assert said == set(task.have) == {0, 1, 2}
        assert not runs.reading.bits
    await sources.aclose()
