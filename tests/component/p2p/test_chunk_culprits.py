"""Whose fault it is: what one host, or one image, says wrongly of a chunk costs nobody else anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
import trio.testing
import zstandard

from cafs.core.chunk import ChunkRef, Codec
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish, parse_chunk_wish
from cafs.core.swarm.ids import HostId
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.p2p import chunk_peers
from cafs.p2p.chunk_origin import ChunkOrigin
from cafs.p2p.chunk_peers import WRONG_S, ChunkPeers
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.membership import ChunkMember
from cafs.p2p.recent_frames import RecentFrames
from tests.support.chunk_swarm import REPOSITORY, OneRepository, swarm, wish_for
from tests.support.fetching import MemoryLayer, ScriptedSource
from tests.support.logs import ExpectedLogs

LAYER = MemoryLayer([64 << 10] * 12)


def told_wrongly(wish: ChunkWish, **changes: Any) -> ChunkWish:
    """As another host might ask."""
    return ChunkWish(wish.blob, wish.repository, tuple(ref._replace(**changes) for ref in wish.refs), True, 0)


class TwoBlobs:
    """A registry with the chunks of a layer as they are, and compressed in another way."""

    def __init__(self) -> None:
        self.frames = [
            zstandard.ZstdCompressor(level=19, write_checksum=True).compress(LAYER.chunk(row).plain)
            for row in range(len(LAYER.frames))
        ]
        blob = b"".join(self.frames)
        self.blob = BlobRef(sha256_digest(blob), len(blob))
        self.refs: list[ChunkRef] = []
        offset = 0
        for ref, frame in zip(LAYER.table.refs, self.frames, strict=True):
            self.refs.append(ref._replace(offset=offset, frame_bytes=len(frame), codec=Codec.ZSTD))
            offset += len(frame)
        self.sources = {LAYER.blobs[0]: ScriptedSource(LAYER.blob), self.blob: ScriptedSource(blob)}
        self.name = "two"
        self.go = trio.Event()
        self.go.set()

    async def read_range(self, blob: BlobRef, offset: int, length: int) -> bytes:
        await self.go.wait()
        return await self.sources[blob].read_range(blob, offset, length)


async def test_who_sends_the_right_chunk_is_not_blamed_for_a_wrong_wish(tmp_path: Path) -> None:
    """A host asks an owner for chunks of a size that they do not have; the owner asks who has them."""
    async with swarm(tmp_path, ScriptedSource(LAYER.blob), 2) as (hosts, table):
        owner, honest = hosts
        await honest.exchange.bring(wish_for(LAYER))
        owner.shared.join(LAYER.blobs[0], REPOSITORY)
        wrong = told_wrongly(wish_for(LAYER, LAYER.table.refs[:2]), plain_bytes=1000)
        assert await owner.exchange.serve(wrong) == [None, None]
        assert honest.asked
        assert (table.wrong, owner.exchange.figures.wrong) == ([], 0)
        frames = await owner.exchange.bring(wish_for(LAYER, LAYER.table.refs[:2]))
        assert [bytes(frame or b"") for frame in frames] == LAYER.frames[:2]
        assert owner.exchange.figures.from_peers == 2


async def test_a_wish_that_says_a_wrong_place_spoils_no_others(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    """Who wants the same chunk meanwhile gets it, from where it lies."""
    expected_logs.expect("sent wrong bytes")
    go = trio.Event()

    async def wait(_number: int, right: bytes) -> bytes:
        await go.wait()
        return right

    source = ScriptedSource(LAYER.blob, wait)
    async with swarm(tmp_path, source, 1) as ([owner], _), trio.open_nursery() as nursery:
        owner.shared.join(LAYER.blobs[0], REPOSITORY)
        right = wish_for(LAYER, LAYER.table.refs[3:4])
        nursery.start_soon(owner.exchange.serve, told_wrongly(right, offset=0))
        await trio.testing.wait_all_tasks_blocked()
        assert source.requests
        for ask in (owner.exchange.bring, owner.exchange.serve):

            async def get(ask: object = ask) -> None:
                [frame] = await ask(right)  # type: ignore[operator]
                assert bytes(frame or b"") == LAYER.frames[3]

            nursery.start_soon(get)
        await trio.testing.wait_all_tasks_blocked()
        go.set()


async def test_a_chunk_that_is_compressed_in_two_ways_is_sent_as_it_is_meant(tmp_path: Path) -> None:
    """Of two images that are wanted at once: an answer that does not fit has its sender left."""
    registry = TwoBlobs()
    registry.go = trio.Event()
    source: Any = registry
    async with swarm(tmp_path, source, 1) as ([host], _), trio.open_nursery() as nursery:
        other = ChunkWish(registry.blob, REPOSITORY, tuple(registry.refs), True, 0)
        for wish in (wish_for(LAYER), other):
            host.shared.join(wish.blob, REPOSITORY)

        async def get(ask: object, wish: ChunkWish, right: list[bytes]) -> None:
            frames = await ask(wish)  # type: ignore[operator]
            assert [bytes(frame or b"") for frame in frames] == right

        nursery.start_soon(get, host.exchange.bring, wish_for(LAYER), LAYER.frames)
        nursery.start_soon(get, host.exchange.serve, other, registry.frames)
        nursery.start_soon(get, host.exchange.bring, other, registry.frames)
        await trio.testing.wait_all_tasks_blocked()
        registry.go.set()


async def test_wishes_for_a_blob_of_another_size_are_not_fetched(tmp_path: Path) -> None:
    """Its size bounds where its chunks lie, and with that what is remembered of whose they are."""
    source = ScriptedSource(LAYER.blob)
    async with swarm(tmp_path, source, 1) as ([owner], _):
        await owner.exchange.bring(wish_for(LAYER, LAYER.table.refs[:1]))
        before = len(source.requests)
        endless = BlobRef(LAYER.blobs[0].digest, 1 << 62)
        refs = tuple(
            ref._replace(offset=number << 50, digest=bytes([number]) * 32)
            for number, ref in enumerate(LAYER.table.refs, 1)
        )
        wish = parse_chunk_wish(ChunkWish(endless, REPOSITORY, refs, True, 0).encode())
        assert await owner.exchange.serve(wish) == [None] * len(refs)
        assert len(source.requests) == before


async def test_what_came_and_is_wanted_anew_is_nobody_elses_to_give_up() -> None:
    """The first request for it still reads other chunks when the second begins."""
    go = [trio.Event() for _ in range(3)]
    go[0].set()

    async def in_turn(number: int, right: bytes) -> bytes:
        await go[number].wait()
        return right

    async def deliver(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    source = ScriptedSource(LAYER.blob, in_turn)
    far_apart = [LAYER.table.refs[0], LAYER.table.refs[-1]]
    async with trio.open_nursery() as nursery:
        origin = ChunkOrigin(
            nursery,
            OneRepository(source),  # type: ignore[arg-type]
            LiveLimits(PeerLimits()).source,
            concurrency=4,
            recent=RecentFrames(0),
            deliver=deliver,
        )
        nursery.start_soon(origin.fetch, wish_for(LAYER), far_apart, None)
        await trio.testing.wait_all_tasks_blocked()
        assert len(source.requests) == 2  # the first chunk has come
        found = []

        async def again() -> None:
            found.append(await origin.fetch(wish_for(LAYER), far_apart[:1], None))

        nursery.start_soon(again)
        await trio.testing.wait_all_tasks_blocked()
        assert len(source.requests) == 3
        go[1].set()
        await trio.testing.wait_all_tasks_blocked()
        assert source.active == 1  # the first request has ended
        assert not found
        go[2].set()
    [[chunk]] = found
    assert chunk is not None
    assert chunk.frame == LAYER.frames[0]


async def test_liars_are_not_forgotten_for_those_who_are_away(mock_clock: trio.testing.MockClock) -> None:
    peers = ChunkPeers(None, LiveLimits(PeerLimits()).download)
    liar = ChunkMember(HostId("a" * 32), "10.0.0.1:1")
    peers.shun(liar, WRONG_S)
    peers.shun(liar, chunk_peers.AWAY_S)
    for number in range(3000):
        peers.shun(ChunkMember(HostId("b" * 32), f"10.1.{number >> 8}.{number & 255}:1"), chunk_peers.AWAY_S)
    mock_clock.jump(WRONG_S - 1)
    assert peers.is_shunned(liar)
    mock_clock.jump(2)
    assert not peers.is_shunned(liar)
