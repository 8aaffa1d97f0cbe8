"""Readers of one service, against scripted sources: single flight, failures, deadlines, order, bounds."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.errors import (
    AuthError,
    DeadlineError,
    IntegrityError,
    NotFoundError,
    ProtocolError,
    RemoteError,
    StorageError,
)
from cafs.fetch.journal import FILE_NAME, Journal, read_journal
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from tests.support.fetching import METADATA, MemoryLayer, MemoryStore, Script, ScriptedSource, joined
from tests.support.logs import ExpectedLogs

KIB = 1024


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Jumps over waits, but not while a worker thread is at work: trio takes that for idleness."""
    autojump_clock.autojump_threshold = 0.2
    return autojump_clock


@pytest.fixture
def layer() -> MemoryLayer:
    rng = random.Random(1)
    return MemoryLayer([rng.randrange(4 * KIB, 128 * KIB) for _ in range(60)])


def all_rows(layer: MemoryLayer) -> tuple[int, int]:
    return len(METADATA), layer.virtual_bytes - len(METADATA)


def chunk_span(layer: MemoryLayer, first: int, last: int) -> tuple[int, int]:
    begin = layer.table.start(first)
    return begin, layer.table.end(last) - begin


async def test_every_read_gives_the_images_bytes(layer: MemoryLayer) -> None:
    rng = random.Random(2)
    source = ScriptedSource(layer.blob)
    async with ChunkService(MemoryStore(), FetchLimits(memory_cache_bytes=300 * KIB)) as service:
        reader = service.add_layer(layer, [source], "layer")
        for _ in range(200):
            offset, size = rng.randrange(layer.virtual_bytes + 5000), rng.randrange(1, 400 * KIB)
            expected = layer.image[offset : offset + size]
            assert joined(await reader.read(offset, size)) == expected
            at_once = reader.try_read(offset, size)
            assert at_once is None or joined(at_once) == expected
    assert service.stats().fetched_chunks == 60


async def test_metadata_needs_neither_store_nor_source(layer: MemoryLayer) -> None:
    async with ChunkService(None, FetchLimits()) as service:
        reader = service.add_layer(layer, [], "layer")
        assert joined(reader.try_read(100, 5000) or []) == layer.image[100:5100]


async def test_neighbours_are_fetched_in_one_request(layer: MemoryLayer) -> None:
    source = ScriptedSource(layer.blob)
    async with ChunkService(None, FetchLimits(rider_bytes=0)) as service:
        reader = service.add_layer(layer, [source], "layer")
        await reader.read(*chunk_span(layer, 3, 9))
    refs = layer.table.refs
    assert source.requests == [(refs[3].offset, refs[10].offset - refs[3].offset)]


async def test_many_readers_of_a_chunk_cause_one_request(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async def slow(_: int, right: bytes) -> bytes:
        await trio.sleep(1)
        return right

    source, got = ScriptedSource(layer.blob, slow), []

    async def read(reader: LayerReader) -> None:
        got.append(joined(await reader.read(*chunk_span(layer, 5, 5))))

    async with ChunkService(MemoryStore(), FetchLimits()) as service, trio.open_nursery() as nursery:
        reader = service.add_layer(layer, [source], "layer")
        for _ in range(50):
            nursery.start_soon(read, reader)
    assert len(source.requests) == 1
    offset, size = chunk_span(layer, 5, 5)
    assert got == [layer.image[offset : offset + size]] * 50


async def test_a_cancelled_reader_does_not_cancel_anothers_fetch(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async def slow(_: int, right: bytes) -> bytes:
        await trio.sleep(2)
        return right

    source = ScriptedSource(layer.blob, slow)
    async with ChunkService(None, FetchLimits(rider_bytes=0)) as service, trio.open_nursery() as nursery:
        reader = service.add_layer(layer, [source], "layer")

        async def impatient() -> None:
            with trio.move_on_after(1):
                await reader.read(*chunk_span(layer, 5, 5))

        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        offset, size = chunk_span(layer, 5, 6)
        assert joined(await reader.read(offset, size)) == layer.image[offset : offset + size]
    assert len(source.requests) == 2


async def test_a_request_that_nobody_wants_any_more_is_cancelled(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async def never(_: int, right: bytes) -> bytes:
        await trio.sleep_forever()
        return right

    source = ScriptedSource(layer.blob, never)
    async with ChunkService(None, FetchLimits()) as service:
        reader = service.add_layer(layer, [source], "layer")
        with trio.move_on_after(1):
            await reader.read(*chunk_span(layer, 5, 5))
        await trio.testing.wait_all_tasks_blocked()
        assert source.active == 0


def failing(times: int, error: Exception) -> Script:
    async def script(number: int, right: bytes) -> bytes:
        if number < times:
            raise error
        return right

    return script


@pytest.mark.parametrize("error", [RemoteError("503"), ProtocolError("garbage"), DeadlineError("stalled")])
async def test_a_source_that_fails_for_a_while_is_asked_again(
    layer: MemoryLayer, clock: trio.testing.MockClock, error: Exception
) -> None:
    source = ScriptedSource(layer.blob, failing(4, error))
    async with ChunkService(None, FetchLimits()) as service:
        reader = service.add_layer(layer, [source], "layer")
        offset, size = chunk_span(layer, 0, 2)
        assert joined(await reader.read(offset, size)) == layer.image[offset : offset + size]
    assert len(source.requests) == 5


async def test_retry_after_is_obeyed(layer: MemoryLayer, clock: trio.testing.MockClock) -> None:
    busy = RemoteError("429")
    busy.retry_after_s = 7.0
    source = ScriptedSource(layer.blob, failing(1, busy))
    async with ChunkService(None, FetchLimits()) as service:
        began = trio.current_time()
        await service.add_layer(layer, [source], "layer").read(*chunk_span(layer, 0, 0))
        assert 7 <= trio.current_time() - began < 9


async def damaged_bit(_: int, right: bytes) -> bytes:
    return right[:-5] + bytes([right[-5] ^ 1]) + right[-4:]


async def short(_: int, right: bytes) -> bytes:
    return right[:-1]


async def long(_: int, right: bytes) -> bytes:
    return right + b"x"


async def zeros(_: int, right: bytes) -> bytes:
    return bytes(len(right))


async def refused(_: int, right: bytes) -> bytes:
    raise AuthError("401")


async def missing(_: int, right: bytes) -> bytes:
    raise NotFoundError("404")


async def defect(_: int, right: bytes) -> bytes:
    raise ZeroDivisionError


BAD: list[Callable[[int, bytes], Awaitable[bytes]]] = [damaged_bit, short, long, zeros, refused, missing]


@pytest.mark.parametrize("script", BAD)
async def test_the_next_source_mends_what_the_first_one_spoils(
    layer: MemoryLayer, clock: trio.testing.MockClock, script: Script
) -> None:
    bad, good = ScriptedSource(layer.blob, script, "bad"), ScriptedSource(layer.blob, name="good")
    store = MemoryStore()
    async with ChunkService(store, FetchLimits()) as service:
        reader = service.add_layer(layer, [bad, good], "layer")
        offset, size = all_rows(layer)
        assert joined(await reader.read(offset, size)) == layer.image[offset:]
    assert good.requests
    assert set(store.chunks) == {ref.digest for ref in layer.table.refs}


@pytest.mark.parametrize(
    ("script", "expected"),
    [(zeros, IntegrityError), (refused, AuthError), (missing, NotFoundError)],
)
async def test_a_refusal_for_good_fails_at_once_and_is_written_down(
    layer: MemoryLayer,
    clock: trio.testing.MockClock,
    script: Script,
    expected: type[Exception],
    tmp_path: Path,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs.expect("read failed: .*registry one")
    source = ScriptedSource(layer.blob, script, "registry one")
    journal = Journal(tmp_path / FILE_NAME)
    async with ChunkService(None, FetchLimits(), journal) as service:
        reader = service.add_layer(layer, [source], "layer")
        began = trio.current_time()
        with pytest.raises(expected, match="registry one"):
            await reader.read(*chunk_span(layer, 7, 7))
        assert trio.current_time() - began < 2
    await journal.written()
    (failure,) = read_journal(tmp_path / FILE_NAME)
    assert failure.chunk == layer.table.refs[7].digest.hex()
    assert {answer.source for answer in failure.answers} == {"registry one"}
    assert {answer.kind for answer in failure.answers} == {expected.__name__}


async def test_a_defect_in_a_source_is_a_failed_answer(
    layer: MemoryLayer, clock: trio.testing.MockClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("unforeseen way")
    bad, good = ScriptedSource(layer.blob, defect, "bad"), ScriptedSource(layer.blob, name="good")
    async with ChunkService(None, FetchLimits()) as service:
        reader = service.add_layer(layer, [bad, good], "layer")
        offset, size = chunk_span(layer, 0, 1)
        assert joined(await reader.read(offset, size)) == layer.image[offset : offset + size]


async def test_a_stalling_source_ends_in_the_deadline_and_the_next_read_works(
    layer: MemoryLayer, clock: trio.testing.MockClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect(r"read failed: .* did not come within 10\.0 s")
    healthy = False

    async def stalls(_: int, right: bytes) -> bytes:
        if not healthy:
            await trio.sleep_forever()
        return right

    source = ScriptedSource(layer.blob, stalls)
    async with ChunkService(None, FetchLimits(read_deadline_s=10, answer_timeout_s=4)) as service:
        reader = service.add_layer(layer, [source], "layer")
        offset, size = chunk_span(layer, 0, 1)
        began = trio.current_time()
        with pytest.raises(DeadlineError, match=r"did not come within 10\.0 s"):
            await reader.read(offset, size)
        assert trio.current_time() - began == pytest.approx(10)
        assert len(source.requests) > 1
        healthy = True
        assert joined(await reader.read(offset, size)) == layer.image[offset : offset + size]


async def test_a_reader_after_the_failure_does_not_wait_out_the_rest_of_those_before(
    layer: MemoryLayer, clock: trio.testing.MockClock, expected_logs: ExpectedLogs
) -> None:
    """Its patience is shorter than the pause that the flight had come to."""
    expected_logs.expect(r"read failed: .* 503")
    healthy = False

    async def away(_: int, right: bytes) -> bytes:
        if not healthy:
            raise RemoteError("503")
        return right

    source = ScriptedSource(layer.blob, away)
    async with ChunkService(None, FetchLimits(read_deadline_s=30)) as service:
        reader = service.add_layer(layer, [source], "layer")
        for row in (0, 30, 59):
            clock.autojump_threshold = 0.01  # no thread works meanwhile
            with pytest.raises(DeadlineError, match="503"):
                await reader.read(*chunk_span(layer, row, row))
            clock.autojump_threshold = math.inf  # so it waits for nothing, or for ever
            healthy = True
            await reader.read(*chunk_span(layer, row, row))
            healthy = False


async def test_a_reader_tries_at_once_what_was_resting_for_a_prefetcher(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    busy = RemoteError("429")
    busy.retry_after_s = 7.0
    source = ScriptedSource(layer.blob, failing(1, busy))
    async with ChunkService(None, FetchLimits()) as service:
        reader = service.add_layer(layer, [source], "layer")
        service.launch([(reader, reader.ref(0))], Priority.PROFILE)
        await trio.sleep(1)
        began = trio.current_time()
        await reader.read(*chunk_span(layer, 0, 0))
        assert trio.current_time() - began < 1


async def test_a_stalling_source_is_left_for_the_next_one(
    layer: MemoryLayer, clock: trio.testing.MockClock
) -> None:
    async def stalls(_: int, right: bytes) -> bytes:
        await trio.sleep_forever()
        return right

    sources = [ScriptedSource(layer.blob, stalls, "stalls"), ScriptedSource(layer.blob, name="good")]
    async with ChunkService(None, FetchLimits(answer_timeout_s=4)) as service:
        reader = service.add_layer(layer, sources, "layer")
        offset, size = chunk_span(layer, 0, 1)
        assert joined(await reader.read(offset, size)) == layer.image[offset : offset + size]


async def test_no_source_at_all_is_an_error_at_once(layer: MemoryLayer, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("no source")
    async with ChunkService(None, FetchLimits()) as service:
        reader = service.add_layer(layer, [], "layer")
        with pytest.raises(RemoteError, match="no source"):
            await reader.read(*chunk_span(layer, 0, 1))


async def test_chunks_in_the_store_are_not_fetched(layer: MemoryLayer) -> None:
    store = MemoryStore()
    store.put([layer.chunk(row) for row in range(60)])
    source = ScriptedSource(layer.blob)
    async with ChunkService(store, FetchLimits()) as service:
        reader = service.add_layer(layer, [source], "layer")
        assert joined(await reader.read(*all_rows(layer))) == layer.image[len(METADATA) :]
    assert not source.requests
    assert store.gets == 1


async def test_a_full_store_costs_one_warning_and_no_read(
    layer: MemoryLayer, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("disk full")
    store = MemoryStore()
    store.fail = StorageError("disk full")
    async with ChunkService(store, FetchLimits()) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], "layer")
        for row in range(60):
            offset, size = chunk_span(layer, row, row)
            assert joined(await reader.read(offset, size)) == layer.image[offset : offset + size]
    assert [r.message for r in caplog.records if "disk full" in r.message] == [
        "the chunk store takes no more chunks, going on without storing: disk full"
    ]


async def test_an_unreadable_store_costs_one_warning_and_no_read(
    layer: MemoryLayer, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("page is rotten")
    store = MemoryStore()
    store.fail_get = StorageError("page is rotten")
    async with ChunkService(store, FetchLimits()) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], "layer")
        assert joined(await reader.read(*all_rows(layer))) == layer.image[len(METADATA) :]
    assert caplog.text.count("page is rotten") == 1


async def test_requests_under_way_stay_within_the_limit(layer: MemoryLayer) -> None:
    source = ScriptedSource(layer.blob)
    limits = FetchLimits(concurrency=3, demand_range_bytes=64 * KIB)
    async with ChunkService(None, limits) as service:
        reader = service.add_layer(layer, [source], "layer")
        await reader.read(*all_rows(layer))
    assert len(source.requests) > 3
    assert source.most_active == 3


async def test_memory_stays_within_the_limit(layer: MemoryLayer) -> None:
    limits = FetchLimits(memory_cache_bytes=200 * KIB)
    async with ChunkService(None, limits) as service:
        reader = service.add_layer(layer, [ScriptedSource(layer.blob)], "layer")
        await reader.read(*all_rows(layer))
        held = sum(reader.try_read(*chunk_span(layer, row, row)) is not None for row in range(60))
    assert 1 <= held <= 60 * 200 * KIB // (layer.virtual_bytes - len(METADATA)) + 5


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(NotFoundError):
        async with ChunkService(None, FetchLimits()):
            raise NotFoundError("body")
