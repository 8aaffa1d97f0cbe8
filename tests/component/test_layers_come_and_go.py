"""Layers of one chunk service are added and removed while others are read."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from cafs.errors import IntegrityError, RemoteError
from cafs.fetch.limits import FetchLimits
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.service import ChunkService
from tests.support.fetching import MemoryLayer, MemoryStore, ScriptedSource, joined
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S

LIMITS = FetchLimits(read_deadline_s=2.0, retries=0)


async def fails(_number: int, _right: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    raise RemoteError("away")


async def test_a_source_that_is_added_later_is_asked_when_the_first_fails() -> None:
    layer = MemoryLayer([5000] * 4)
    broken, whole = ScriptedSource(layer.blob, fails), ScriptedSource(layer.blob, name="mirror")
    async with ChunkService(None, LIMITS) as service:
        reader = service.add_layer(layer, [broken], layer.diff_id)
        reader.origin(0)
        reader.add_source(whole)
        reader.add_source(whole)
        assert joined(await reader.read(0, layer.virtual_bytes)) == layer.image
        assert broken.requests
        assert whole.requests


async def test_a_layer_that_goes_takes_no_reader_along() -> None:
    """Two layers share their chunks; the flights that the removed one began bring them to the other."""
    layer = MemoryLayer([5000] * 4)
    held = trio.Event()

    async def waits(_number: int, right: bytes) -> bytes:
        await held.wait()
        return right

    async with ChunkService(None, LIMITS) as service:
        source = ScriptedSource(layer.blob, waits)
        going = service.add_layer(layer, [source], layer.diff_id)
        staying = service.add_layer(layer, [source], layer.diff_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(going.read, 0, layer.virtual_bytes)
            await trio.testing.wait_all_tasks_blocked()
            answers: list[bytes] = []

            async def read() -> None:
                answers.append(joined(await staying.read(0, layer.virtual_bytes)))

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            service.remove_layer(going)
            held.set()
        assert answers == [layer.image]
        assert service.stats().total_bytes == staying.data_bytes
        assert service.layer_stats(staying).fetched_frame_bytes == len(layer.blob)
        service.remove_layer(staying)
        assert service.stats().total_bytes == 0


async def test_what_one_image_waits_for_in_vain_another_fetches_from_its_own_registry() -> None:
    layer = MemoryLayer([5000] * 4)

    async def never(_number: int, _right: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with ChunkService(None, FetchLimits()) as service, trio.open_nursery() as nursery:
        stuck = service.add_layer(layer, [ScriptedSource(layer.blob, never, name="slow")], layer.diff_id)
        nursery.start_soon(stuck.read, 0, layer.virtual_bytes)
        await trio.testing.wait_all_tasks_blocked()
        other = service.add_layer(layer, [ScriptedSource(layer.blob, name="quick")], layer.diff_id)
        with trio.fail_after(PATIENCE_S):
            assert joined(await other.read(0, layer.virtual_bytes)) == layer.image
        nursery.cancel_scope.cancel()


async def test_a_registry_that_does_not_answer_keeps_no_reader_of_another_from_his() -> None:
    limits = FetchLimits(rider_bytes=0, gap_bytes=0)
    stuck_layer, layer = MemoryLayer([5000] * 40), MemoryLayer([5000], seed=1)

    async def never(_number: int, _right: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with ChunkService(None, limits) as service, trio.open_nursery() as nursery:
        slow = ScriptedSource(stuck_layer.blob, never, name="slow")
        stuck = service.add_layer(stuck_layer, [slow], stuck_layer.diff_id)
        for row in range(0, 40, 2):
            nursery.start_soon(stuck.read, stuck_layer.table.start(row), 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(slow.requests) == limits.concurrency
        quick = ScriptedSource(layer.blob, name="quick")
        other = service.add_layer(layer, [quick], layer.diff_id)
        nursery.start_soon(other.read, 0, layer.virtual_bytes)
        await trio.testing.wait_all_tasks_blocked()
        assert quick.requests
        nursery.cancel_scope.cancel()


async def test_what_another_image_says_falsely_of_a_chunk_spoils_no_read(expected_logs: ExpectedLogs) -> None:
    """It names a chunk of ours, but in a blob of its own, with other bytes, and with another size."""
    layer, liar = MemoryLayer([5000] * 4), MemoryLayer([5000] * 4, seed=1)
    liar.table.refs = [
        ref._replace(digest=own.digest, plain_bytes=ref.plain_bytes - 1)
        for ref, own in zip(liar.table.refs, layer.table.refs, strict=True)
    ]
    held = trio.Event()
    expected_logs.expect("declares 5000 bytes, expected 4999")

    async def waits(_number: int, right: bytes) -> bytes:
        await held.wait()
        return right

    async with ChunkService(None, FetchLimits()) as service, trio.open_nursery() as nursery:
        source = ScriptedSource(liar.blob, waits)
        lying = service.add_layer(liar, [source], liar.diff_id)

        async def read_lies() -> None:
            with pytest.raises(IntegrityError):
                await lying.read(0, liar.virtual_bytes)

        nursery.start_soon(read_lies)
        await trio.testing.wait_all_tasks_blocked()
        honest = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
        answers: list[bytes] = []

        async def read() -> None:
            answers.append(joined(await honest.read(0, layer.virtual_bytes)))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        held.set()
    assert answers == [layer.image]


async def test_each_image_is_filled_by_what_was_read_of_it() -> None:
    read, unread = MemoryLayer([5000] * 10, seed=1), MemoryLayer([5000] * 10, seed=2)
    store = MemoryStore()
    sources = [ScriptedSource(layer.blob) for layer in (read, unread)]
    async with ChunkService(store, LIMITS) as service:
        readers = [
            service.add_layer(layer, [source], layer.diff_id)
            for layer, source in zip((read, unread), sources, strict=True)
        ]
        for reader in readers:
            service.start_prefetch(Prefetch.AUTO, layers=[reader])
        await readers[0].read(0, readers[0].virtual_bytes * 6 // 10)
        with trio.fail_after(PATIENCE_S):
            while len(store.chunks) < 10:
                await trio.testing.wait_all_tasks_blocked()
        assert set(store.chunks) == {ref.digest for ref in read.table.refs}
        assert sources[1].requests == []
        assert await service.bytes_here(readers[0]) == 50_000
        assert await service.bytes_here(readers[1]) == 0


async def test_a_cancelled_prefetch_asks_no_more() -> None:
    layer = MemoryLayer([5000] * 4)
    source = ScriptedSource(layer.blob)
    async with ChunkService(MemoryStore(), LIMITS) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        service.start_prefetch(Prefetch.AUTO, layers=[reader]).cancel()
        await reader.read(0, layer.virtual_bytes)
        await trio.testing.wait_all_tasks_blocked()
        before = len(source.requests)
        await trio.testing.wait_all_tasks_blocked()
        assert len(source.requests) == before


@pytest.mark.parametrize("rows", [1, 5])
async def test_what_was_fetched_ahead_of_a_removed_layer_counts_no_more(rows: int) -> None:
    layer = MemoryLayer([2000] * (rows + 1))
    async with ChunkService(None, LIMITS) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
        before = service._ahead.allowance_bytes()
        for row in range(rows):
            service.note_ahead(reader, row, reader.ref(row))
        assert service._ahead.allowance_bytes() < before
        service.remove_layer(reader)
        assert service._ahead.allowance_bytes() == before
