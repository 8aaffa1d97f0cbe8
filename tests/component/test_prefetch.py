"""Fetching ahead of readers: sequential readers, profiles, fills, and that readers come first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.chunk import ChunkRef
from cafs.core.profile import Profile, parse_profile
from cafs.core.source import BlobRef, ChunkAnswer, Span, read_spans
from cafs.errors import RemoteError, StorageError, UsageError
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.riders import FIRST_BYTES, UNUSED_SHARE
from cafs.fetch.service import ChunkService
from tests.support.fetching import METADATA, MemoryLayer, MemoryStore, ScriptedSource, joined
from tests.support.logs import ExpectedLogs

KIB = 1024


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Jumps over waits, but not while a worker thread is at work: trio takes that for idleness."""
    autojump_clock.autojump_threshold = 0.2
    return autojump_clock


@pytest.fixture(scope="module")
def layer() -> MemoryLayer:
    return MemoryLayer([64 * KIB] * 100)


def profile_of(layer: MemoryLayer, rows: list[int]) -> Profile:
    return Profile((layer.diff_id,), tuple((0, layer.table.row(row).digest[:8]) for row in rows))


def digests(layer: MemoryLayer, rows: list[int] | range) -> set[bytes]:
    return {layer.table.row(row).digest for row in rows}


async def test_a_sequential_reader_finds_its_chunks_there(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async with ChunkService(MemoryStore(), FetchLimits()) as service:
        source = ScriptedSource(layer.blob)
        reader = service.add_layer(layer, [source], layer.diff_id)
        at_once, requests = 0, source.requests
        for offset in range(len(METADATA), layer.virtual_bytes, 128 * KIB):
            await trio.testing.wait_all_tasks_blocked(0.02)
            if reader.try_read(offset, 128 * KIB) is None:
                await reader.read(offset, 128 * KIB)
            else:
                at_once += 1
        assert at_once > 40
        assert len(requests) <= 25
        assert service.stats().fetched_bytes == len(layer.blob)


async def test_what_the_store_holds_is_decoded_ahead_of_a_long_stream(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    store, source = MemoryStore(), ScriptedSource(layer.blob)
    store.put([layer.chunk(row) for row in range(100) if row != 60])
    async with ChunkService(store, FetchLimits(rider_bytes=0)) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        at_once = 0
        for offset in range(len(METADATA), layer.virtual_bytes, 128 * KIB):
            await trio.testing.wait_all_tasks_blocked(0.02)
            if reader.try_read(offset, 128 * KIB) is None:
                await reader.read(offset, 128 * KIB)
            else:
                at_once += 1
        ref = layer.table.row(60)
        assert source.requests == [(ref.offset, ref.frame_bytes)]
        assert at_once > 25  # all but the first 2 MiB, after which a stream is believed to go on


async def test_a_stream_is_decoded_ahead_within_bounds(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    store.put([layer.chunk(row) for row in range(100)])
    async with ChunkService(store, FetchLimits(readahead_bytes=1024 * KIB)) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
        for row in range(40):
            await reader.read(layer.table.start(row), 64 * KIB)
            await trio.testing.wait_all_tasks_blocked(0.02)
        ahead = [row for row in range(40, 100) if reader.try_read(layer.table.start(row), 1) is not None]
    assert ahead == list(range(40, 40 + len(ahead)))
    assert 8 <= len(ahead) <= 24


async def test_riders_come_with_a_readers_request_within_their_allowance(layer: MemoryLayer) -> None:
    source, store = ScriptedSource(layer.blob), MemoryStore()
    store.put([layer.chunk(13)])
    async with ChunkService(store, FetchLimits()) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        await reader.read(layer.table.start(10), 64 * KIB)
        frame = layer.table.row(0).frame_bytes
        # Rows 11 and 12 ride along, 13 is in the store.
        assert source.requests == [(10 * frame, 3 * frame)]
        for row in (11, 12):
            assert reader.try_read(layer.table.start(row), 64 * KIB) is not None
        for row in range(20, 95, 5):
            await reader.read(layer.table.start(row), 64 * KIB)
        stats = service.stats()
    assert stats.fetched_bytes <= (1 + UNUSED_SHARE) * stats.touched_frame_bytes + FIRST_BYTES
    assert len(source.requests) == 16


async def test_from_far_away_more_comes_with_a_readers_request(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async def requests_for(seconds: float) -> int:
        """To read everything, from a source that takes so long to answer."""

        async def answer(_number: int, right: bytes) -> bytes:
            await trio.sleep(seconds)
            return right

        source = ScriptedSource(layer.blob, answer)
        async with ChunkService(MemoryStore(), FetchLimits(readahead_bytes=0)) as service:
            reader = service.add_layer(layer, [source], layer.diff_id)
            for row in range(100):
                await reader.read(layer.table.start(row), 64 * KIB)
        return len(source.requests)

    near, far = await requests_for(0.01), await requests_for(0.1)
    assert far < near / 3


async def test_riders_that_nobody_reads_become_fewer(layer: MemoryLayer) -> None:
    async def fetched_beside(rows: range) -> tuple[int, int]:
        """Bytes of riders, and those of them that were read."""
        async with ChunkService(MemoryStore(), FetchLimits()) as service:
            reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
            for row in rows:
                await reader.read(layer.table.start(row), 64 * KIB)
            stats = service.stats()
        return stats.fetched_bytes - stats.touched_frame_bytes, stats.touched_frame_bytes

    unused, read = await fetched_beside(range(0, 100, 5))
    assert 0 < unused <= FIRST_BYTES < UNUSED_SHARE * read
    unused, _ = await fetched_beside(range(100))
    assert unused == 0


async def test_a_profile_is_fetched_and_nothing_else(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    store, rows = MemoryStore(), [90, 91, 3, 4, 50]
    async with ChunkService(store, FetchLimits()) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
        hostile = Profile(
            (*profile_of(layer, rows).layers, "sha256:" + "0" * 64),
            (*profile_of(layer, rows).chunks, (0, b"unknown!"), (1, b"unknown!")),
        )
        service.start_prefetch(Prefetch.PROFILE, hostile)
        await trio.sleep(1)
        assert all(reader.try_read(layer.table.start(row), 64 * KIB) is not None for row in rows)
    assert set(store.chunks) == digests(layer, rows)


async def test_all_fetches_everything_and_keeps_it_out_of_memory(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    store, source = MemoryStore(), ScriptedSource(layer.blob)
    store.put([layer.chunk(row) for row in range(20)])
    async with ChunkService(store, FetchLimits()) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        service.start_prefetch(Prefetch.ALL)
        await trio.sleep(1)
        assert set(store.chunks) == digests(layer, range(100))
        assert reader.try_read(len(METADATA), 64 * KIB) is None
        refs = layer.table.refs
        assert service.stats().fetched_bytes == len(layer.blob) - refs[20].offset


async def test_auto_fetches_the_rest_once_a_large_part_was_read(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    async with ChunkService(store, FetchLimits(fill_after_fraction=0.3, rider_bytes=0)) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
        service.start_prefetch(Prefetch.AUTO)
        for row in range(0, 58, 2):
            await reader.read(layer.table.start(row), 100)
        await trio.sleep(5)
        assert set(store.chunks) == digests(layer, range(0, 58, 2))
        await reader.read(layer.table.start(58), 100)
        await trio.sleep(5)
        assert set(store.chunks) == digests(layer, range(100))


async def test_a_fill_outlasts_a_registry_that_is_away(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async def away_at_first(number: int, right: bytes) -> bytes:
        if trio.current_time() < 100:
            raise RemoteError("connection refused")
        return right

    store, usual = MemoryStore(), clock.autojump_threshold
    clock.autojump_threshold = 0.005  # while it is away, no thread has anything to do
    async with ChunkService(store, FetchLimits(retries=2)) as service:
        service.add_layer(layer, [ScriptedSource(layer.blob, away_at_first)], layer.diff_id)
        service.start_prefetch(Prefetch.ALL)
        await trio.sleep(100)
        clock.autojump_threshold = usual
        with trio.fail_after(200):
            while set(store.chunks) != digests(layer, range(100)):  # noqa: ASYNC110 - on the mock clock
                await trio.sleep(1)


async def test_a_fill_ends_when_the_store_is_full(
    layer: MemoryLayer,
    clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs.expect("disk full")
    store, source = MemoryStore(), ScriptedSource(layer.blob)
    store.fail = StorageError("disk full")
    async with ChunkService(store, FetchLimits(fill_range_bytes=128 * KIB)) as service:
        service.add_layer(layer, [source], layer.diff_id)
        service.start_prefetch(Prefetch.ALL)
        await trio.sleep(60)
    assert sum(length for _, length in source.requests) <= len(layer.blob)
    assert caplog.text.count("disk full") == 1


async def test_an_image_larger_than_the_store_is_not_fetched_whole(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    source = ScriptedSource(layer.blob)
    async with ChunkService(MemoryStore(), FetchLimits(store_bytes=len(layer.blob))) as service:
        service.add_layer(layer, [source], layer.diff_id)
        service.start_prefetch(Prefetch.ALL)
        await trio.sleep(60)
    assert not source.requests


async def test_a_reader_is_served_while_a_fill_is_under_way(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async def slow(_: int, right: bytes) -> bytes:
        await trio.sleep(10)
        return right

    source = ScriptedSource(layer.blob, slow)
    limits = FetchLimits(concurrency=4, fill_range_bytes=64 * KIB)
    async with ChunkService(MemoryStore(), limits) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        service.start_prefetch(Prefetch.ALL)
        await trio.sleep(1)
        began = trio.current_time()
        await reader.read(layer.table.start(99), 100)
        assert trio.current_time() - began == pytest.approx(10, abs=0.5)


class StoringSource(ScriptedSource):
    """Answers a fill, when it may, that all is in the store, and everybody else with the bytes."""

    def __init__(self, blob: bytes, go: trio.Event) -> None:
        super().__init__(blob)
        self._go = go
        self.fills = 0

    @property
    def is_aided(self) -> bool:
        return True

    async def read_chunks(
        self, blob: BlobRef, spans: Sequence[Span], refs: Sequence[ChunkRef], urgency: int
    ) -> ChunkAnswer:
        if urgency != Priority.FILL:
            return ChunkAnswer(await read_spans(self, blob, spans))
        self.fills += 1
        await self._go.wait()
        return ChunkAnswer(
            [bytes(span.length) for span in spans], stored=frozenset(ref.digest for ref in refs)
        )


async def test_a_reader_who_joins_a_fill_that_needs_no_bytes_gets_his(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    go = trio.Event()
    source = StoringSource(layer.blob, go)
    async with ChunkService(MemoryStore(), FetchLimits()) as service, trio.open_nursery() as nursery:
        reader = service.add_layer(layer, [source], layer.diff_id)
        service.start_prefetch(Prefetch.ALL)
        await trio.sleep(1)
        assert source.fills
        read: list[bytes] = []

        async def join() -> None:
            read.append(joined(await reader.read(layer.table.start(0), 64 * KIB)))

        nursery.start_soon(join)
        await trio.sleep(1)
        assert (read, source.requests) == ([], [])
        go.set()
        await trio.sleep(1)
        assert read == [layer.image[layer.table.start(0) : layer.table.end(0)]]
        assert len(source.requests) == 1
        assert not service.stats().under_way


def test_priorities_leave_room_for_readers() -> None:
    limits = FetchLimits(concurrency=8)
    active = [0, 0, 0, 0]
    started = dict.fromkeys(Priority, 0)
    for priority in reversed(Priority):
        while limits.may_start(priority, active, sum(active)):
            active[priority] += 1
            started[priority] += 1
    assert started[Priority.FILL] == 4
    assert started[Priority.DEMAND] == 2
    assert not limits.may_start(Priority.FILL, [1, 0, 0, 1], 2)
    assert sum(active) == 8


async def test_first_accesses_are_recorded_and_a_successor_goes_on(
    layer: MemoryLayer, clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "start.profile"
    for rows in ([7, 3, 7, 50], [3, 51]):
        async with ChunkService(MemoryStore(), FetchLimits()) as service:
            reader = service.add_layer(layer, [ScriptedSource(layer.blob)], layer.diff_id)
            service.start_recording(path)
            for row in rows:
                assert joined(await reader.read(layer.table.start(row), 10))
            await trio.sleep(2)
            assert parse_profile(path.read_bytes()).chunks[-1][1] == layer.table.row(rows[-1]).digest[:8]
    assert parse_profile(path.read_bytes()) == profile_of(layer, [7, 3, 50, 51])


async def test_a_file_that_is_no_profile_is_not_overwritten(layer: MemoryLayer, tmp_path: Path) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("precious")
    async with ChunkService(None, FetchLimits()) as service:
        service.add_layer(layer, [], layer.diff_id)
        with pytest.raises(UsageError, match="not an access profile"):
            service.start_recording(path)
    assert path.read_text() == "precious"
