"""Fifty readers at random over sources that fail at random: every byte right, nothing left over."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from cafs.errors import IntegrityError, ProtocolError, RemoteError
from cafs.fetch.flights import Flight
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.service import ChunkService
from cafs.fetch.write_behind import StoreWriter
from tests.support.fetching import MemoryLayer, MemoryStore, ScriptedSource, joined
from tests.support.patience import PATIENCE_S

KIB = 1024


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Jumps over waits, but not while a worker thread is at work: trio takes that for idleness."""
    autojump_clock.autojump_threshold = 0.03
    return autojump_clock


class Unreliable:
    """Fails, delays or spoils about a third of the answers."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    async def __call__(self, _: int, right: bytes) -> bytes:
        fate = self._rng.random()
        await trio.sleep(self._rng.random() * 0.2)
        if fate < 0.1:
            raise self._rng.choice(
                [RemoteError("503"), ProtocolError("reset"), IntegrityError("mirror lies")]
            )
        if fate < 0.2:
            return right[: self._rng.randrange(len(right))]
        if fate < 0.3:
            place = self._rng.randrange(len(right))
            return right[:place] + bytes([right[place] ^ 255]) + right[place + 1 :]
        if fate < 0.33:
            await trio.sleep_forever()
        return right


@pytest.mark.parametrize("seed", range(3))
async def test_readers_at_random_over_unreliable_sources(seed: int, clock: trio.testing.MockClock) -> None:
    rng = random.Random(seed)
    layer = MemoryLayer([rng.randrange(4 * KIB, 96 * KIB) for _ in range(150)], seed)
    sources = [ScriptedSource(layer.blob, Unreliable(seed), "one"), ScriptedSource(layer.blob, name="two")]
    limits = FetchLimits(
        memory_cache_bytes=512 * KIB, answer_timeout_s=2, demand_range_bytes=256 * KIB, concurrency=6
    )
    finished = 0

    async def read_at_random(seed: int) -> None:
        nonlocal finished
        rng = random.Random(seed)
        for _ in range(12):
            offset, size = rng.randrange(layer.virtual_bytes), rng.randrange(1, 200 * KIB)
            with trio.move_on_after(rng.choice([0.05, 1000])):
                data = joined(await reader.read(offset, size))
                assert data == layer.image[offset : offset + size]
                finished += 1

    store = MemoryStore()
    async with ChunkService(store, limits) as service:
        reader = service.add_layer(layer, sources, layer.diff_id)
        service.start_prefetch(rng.choice([Prefetch.AUTO, Prefetch.ALL]))
        async with trio.open_nursery() as readers:
            for number in range(50):
                readers.start_soon(read_at_random, seed * 1000 + number)
        await trio.sleep(200)
        assert service.stats().under_way == 0
    # Only now has all been stored: the store's thread knows nothing of the clock that jumps.
    assert len(store.chunks) == 150
    assert finished > 250
    assert max(source.most_active for source in sources) <= 6


async def test_nothing_is_left_under_way_when_all_readers_leave(clock: trio.testing.MockClock) -> None:
    async def never(_: int, right: bytes) -> bytes:
        await trio.sleep_forever()
        return right

    layer = MemoryLayer([64 * KIB] * 50)
    async with ChunkService(None, FetchLimits(concurrency=2)) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob, never)], layer.diff_id)
        with trio.move_on_after(1):
            async with trio.open_nursery() as readers:
                for row in range(50):
                    readers.start_soon(reader.read, layer.table.start(row), 100)
        await trio.testing.wait_all_tasks_blocked()
        assert service.stats().under_way == 0


async def test_what_waits_to_be_stored_is_bounded_and_prefetching_waits() -> None:
    layer = MemoryLayer([64 * KIB] * 40)
    chunks = [layer.chunk(row) for row in range(40)]
    store = MemoryStore()
    writer = StoreWriter(store, 1024 * KIB)
    writer.offer(chunks)
    assert writer.not_stored == 24
    assert writer.get(chunks[0].digest) is chunks[0]
    assert writer.get(chunks[39].digest) is None
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as waiting:
            waiting.cancel()
            await writer.room()
        assert waiting.cancelled_caught
        nursery.start_soon(writer.run, trio.CapacityLimiter(1))
        await writer.room()
        await writer.drain()
        nursery.cancel_scope.cancel()
    assert set(store.chunks) == {chunk.digest for chunk in chunks[:16]}


async def test_a_reader_gets_what_was_to_travel_along_and_found_no_request() -> None:
    """It waits in the queue, and nobody for it, when the reader comes."""
    layer = MemoryLayer([64 * KIB] * 60)
    answered = trio.Event()

    async def answer(number: int, right: bytes) -> bytes:
        if number < 3:
            await answered.wait()
        return right

    source = ScriptedSource(layer.blob, answer)
    async with ChunkService(None, FetchLimits(concurrency=4, rider_bytes=0)) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        for row in (0, 20, 40):  # all that prefetching may ask for at once
            await service.prefetcher.bring(reader, [row], Priority.READAHEAD)
        flight = Flight(reader.ref(50), reader.origin(0), Priority.READAHEAD)
        flight.rides = True
        service._flights.add(flight)
        service._fetcher.submit([flight])
        assert not flight.done
        with trio.fail_after(PATIENCE_S):
            begin = layer.table.start(50)
            assert joined(await reader.read(begin, 64 * KIB)) == layer.image[begin : begin + 64 * KIB]
        answered.set()


async def test_a_slow_disk_delays_no_reader() -> None:
    class StuckStore(MemoryStore):
        def put(self, chunks: object) -> None:
            trio.from_thread.run(released.wait)

    released = trio.Event()
    layer = MemoryLayer([64 * KIB] * 60)
    async with ChunkService(StuckStore(), FetchLimits(write_behind_bytes=512 * KIB)) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
        for row in range(60):
            with trio.fail_after(PATIENCE_S):
                await reader.read(layer.table.start(row), 64 * KIB)
        assert service.stats().not_stored > 0
        released.set()
