"""What lies here and there in a blob comes by few requests, whether a peer is asked before or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.profile import PREFIX_BYTES, Profile
from cafs.core.source import BlobRef, ChunkSource, Span, most_ranges
from cafs.core.swarm.chunk_request import HAVE_HEADER, encode_have, parse_chunk_wish
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.local_peer import AWAY_S, LocalPeer
from cafs.fetch.peer_first import with_peer
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.http11.messages import Reply, Request
from tests.support.fetching import MemoryLayer, ScriptedSource, joined
from tests.support.grid import until
from tests.support.node_sockets import REGISTRY, listening
from tests.support.patience import PATIENCE_S

KIB = 1024
ROWS = range(0, 48, 3)


@pytest.fixture(scope="module")
def layer() -> MemoryLayer:
    return MemoryLayer([64 * KIB] * 48)


class ScatteredRegistry(ScriptedSource):
    """Takes several ranges in one call."""

    most_ranges = 8

    def __init__(self, blob: bytes) -> None:
        super().__init__(blob, name=REGISTRY)
        self.calls: list[list[Span]] = []

    async def read_ranges(self, blob: BlobRef, spans: Sequence[Span]) -> list[bytes]:
        self.calls.append(list(spans))
        await trio.testing.wait_all_tasks_blocked()
        return [self._blob[span.offset : span.offset + span.length] for span in spans]

    @property
    def asked(self) -> int:
        """Requests, of one range and of several."""
        return len(self.requests) + len(self.calls)


@asynccontextmanager
async def followed(
    layer: MemoryLayer, source: ScatteredRegistry, peer: LocalPeer | None
) -> AsyncIterator[LayerReader]:
    """A profile of every third row has been fetched."""
    prefixes = (layer.table.row(row).digest[:PREFIX_BYTES] for row in ROWS)
    profile = Profile((layer.diff_id,), tuple((0, prefix) for prefix in prefixes))
    async with ChunkService(None, FetchLimits(readahead_bytes=1 << 20), peer=peer) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        service.start_prefetch(Prefetch.PROFILE, profile)
        await until(lambda: service.stats().fetched_chunks == len(ROWS))
        yield reader


def read_all(layer: MemoryLayer, reader: LayerReader) -> None:
    for row in ROWS:
        begin = layer.table.start(row)
        pieces = reader.try_read(begin, 64 * KIB)
        assert pieces is not None
        assert joined(pieces) == layer.image[begin : begin + 64 * KIB]


@pytest.mark.parametrize("with_peer", [False, True])
async def test_a_profile_comes_by_few_requests_also_where_no_peer_answers(
    tmp_path: Path, layer: MemoryLayer, with_peer: bool
) -> None:
    source = ScatteredRegistry(layer.blob)
    peer = LocalPeer(tmp_path / "none", None) if with_peer else None
    async with followed(layer, source, peer) as reader:
        read_all(layer, reader)
    assert source.asked <= 4
    assert max(map(len, source.calls)) > 4


@pytest.mark.parametrize("held", [ROWS[::2], ROWS[:-1], ROWS])
async def test_what_a_peer_lacks_of_several_ranges_comes_from_the_registry_at_once(
    short_tmp_path: Path, layer: MemoryLayer, held: range
) -> None:
    frames = {layer.table.row(row).digest: layer.frames[row] for row in held}
    wishes: list[int] = []

    async def answer(request: Request, reply: Reply) -> None:
        wish = parse_chunk_wish(request.body)
        wishes.append(len(wish.refs))
        here = [frames.get(ref.digest) for ref in wish.refs]
        async with reply.stream(200, None, headers=((HAVE_HEADER, encode_have(here)),)) as send:
            await send(b"".join(frame for frame in here if frame is not None))

    source = ScatteredRegistry(layer.blob)
    peer = LocalPeer(short_tmp_path / "n", None)
    async with listening(short_tmp_path / "n", answer), followed(layer, source, peer) as reader:
        read_all(layer, reader)
    assert sum(wishes) == len(ROWS)
    assert source.asked <= len(wishes)
    spans = [*source.requests, *(span for call in source.calls for span in call)]
    lacking = [layer.table.row(row) for row in ROWS if row not in held]
    assert sorted(spans) == [(ref.offset, ref.frame_bytes) for ref in lacking]


async def test_a_peer_that_sends_wrong_frames_spoils_nothing(
    short_tmp_path: Path, layer: MemoryLayer
) -> None:
    async def lie(request: Request, reply: Reply) -> None:
        refs = parse_chunk_wish(request.body).refs
        async with reply.stream(200, None, headers=((HAVE_HEADER, encode_have(refs)),)) as send:
            await send(b"".join(bytes(ref.frame_bytes) for ref in refs))

    source = ScatteredRegistry(layer.blob)
    peer = LocalPeer(short_tmp_path / "n", None)
    async with listening(short_tmp_path / "n", lie), followed(layer, source, peer) as reader:
        read_all(layer, reader)
    asked = sum(length for _, length in source.requests) + sum(s.length for c in source.calls for s in c)
    assert asked == sum(layer.table.row(row).frame_bytes for row in ROWS)


async def test_a_peer_that_answers_is_asked_for_what_lies_together(
    short_tmp_path: Path, layer: MemoryLayer
) -> None:
    async def answer(request: Request, reply: Reply) -> None:
        have = encode_have([None] * len(parse_chunk_wish(request.body).refs))
        async with reply.stream(200, 0, headers=((HAVE_HEADER, have),)):
            pass

    peer = LocalPeer(short_tmp_path / "n", None)
    source = with_peer(peer, ScatteredRegistry(layer.blob))
    assert isinstance(source, ChunkSource)
    ref, blob = layer.table.row(0), layer.blobs[0]

    async def asked_until_it_takes(ranges: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while most_ranges(source) != ranges:  # it learns by being asked, and nobody tells
                await source.read_chunks(blob, [Span(ref.offset, ref.frame_bytes)], [ref], Priority.PROFILE)
                await trio.sleep(AWAY_S / 10)

    assert most_ranges(source) == ScatteredRegistry.most_ranges
    async with listening(short_tmp_path / "n", answer):
        await asked_until_it_takes(1)
    await asked_until_it_takes(ScatteredRegistry.most_ranges)
    peer.close()
