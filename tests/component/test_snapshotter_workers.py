"""The threads that wait for the snapshotter's loop: what becomes of jobs, and of callers that go away."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cafs.snapshotter.workers import FILE_THREADS, MOUNT_THREADS, Workers


def test_results_and_errors_reach_their_callers() -> None:
    async def scenario() -> None:
        workers = Workers()
        try:
            for run in (workers.ledger, workers.reader, workers.mounts, workers.files):
                assert await run(divmod, 7, 2) == (3, 1)
                with pytest.raises(ZeroDivisionError):
                    await run(divmod, 7, 0)
            assert await workers.ledger(lambda: threading.current_thread().name) == "ledger"
        finally:
            workers.close()

    asyncio.run(scenario())


def test_changes_are_carried_out_in_turn_whoever_still_waits() -> None:
    async def scenario() -> list[int]:
        workers, go_on, begun, done = Workers(), threading.Event(), threading.Event(), list[int]()

        def first() -> None:
            begun.set()
            assert go_on.wait(60)
            done.append(0)

        calls = [asyncio.create_task(workers.ledger(first))]
        calls += [asyncio.create_task(workers.ledger(done.append, number)) for number in range(1, 5)]
        assert await asyncio.to_thread(begun.wait, 60)
        for call in calls[:3]:
            call.cancel()
        go_on.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(end, asyncio.CancelledError) for end in ended] == [True] * 3 + [False] * 2
        workers.close()
        return done

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("hanging", ["mounts", "files"])
def test_mounts_and_files_that_hang_do_not_hold_up_each_other(hanging: str) -> None:
    async def scenario() -> None:
        workers, go_on = Workers(), threading.Event()
        hangs, others = workers.mounts, workers.files
        if hanging == "files":
            hangs, others = others, hangs
        try:
            calls = [asyncio.create_task(hangs(go_on.wait, 60)) for _ in range(MOUNT_THREADS + FILE_THREADS)]
            await asyncio.sleep(0)
            assert await others(divmod, 7, 2) == (3, 1)
            assert not any(call.done() for call in calls)
            go_on.set()
            assert await asyncio.gather(*calls) == [True] * len(calls)
        finally:
            go_on.set()
            workers.close()

    asyncio.run(scenario())


def test_closing_waits_for_changes_under_way() -> None:
    async def scenario() -> list[int]:
        workers, done = Workers(), list[int]()
        call = asyncio.create_task(workers.ledger(done.append, 1))
        await asyncio.sleep(0)
        workers.close()
        await call
        return done

    assert asyncio.run(scenario()) == [1]
