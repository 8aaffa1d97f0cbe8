"""A registry as a source whose chunks this node's peer is asked for first.

Chunks that it brought are verified like any others, and are not stored again where peer and mount share a
chunk store; of what nobody waits for it is then enough that it will lie in there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cafs.core.chunk_ref import ChunkRef
from cafs.core.readplan import coalesce
from cafs.core.source import BlobRef, BlobSource, ChunkAnswer, Span, most_ranges, read_spans
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.fetch.local_peer import LocalPeer

REGISTRY = "docker://"
_MAX_GAP_BYTES = 16 << 10


def with_peer(peer: LocalPeer, source: BlobSource) -> BlobSource:
    """A registry's repository as a source that asks the peer first; any other as it is."""
    return PeerFirst(peer, source) if source.name.startswith(REGISTRY) else source


@dataclass(frozen=True, slots=True)
class PeerFirst:
    """See ``ChunkSource``: the peer, and for what it lacks the registry."""

    peer: LocalPeer
    origin: BlobSource

    @property
    def name(self) -> str:
        """See ``BlobSource``."""
        return self.origin.name

    async def read_range(self, blob: BlobRef, offset: int, length: int) -> bytes:
        """See ``BlobSource``: the registry's answer."""
        return await self.origin.read_range(blob, offset, length)

    @property
    def most_ranges(self) -> int:
        """See ``ScatteredSource``. A peer is near: what lies together is asked of it by itself, and comes
        sooner than what lies here and there."""
        return 1 if self.is_aided else most_ranges(self.origin)

    @property
    def is_aided(self) -> bool:
        """See ``ChunkSource``."""
        return self.peer.is_there

    async def read_chunks(
        self, blob: BlobRef, spans: Sequence[Span], refs: Sequence[ChunkRef], urgency: int
    ) -> ChunkAnswer:
        """See ``ChunkSource``."""
        wanted = tuple({ref.digest: ref for ref in refs}.values())
        repository = self.origin.name.removeprefix(REGISTRY)
        brought = await self.peer.chunks(ChunkWish(blob, repository, wanted, True, urgency))
        frames = zip(wanted, brought.frames, strict=True)
        found = {ref.digest: frame for ref, frame in frames if frame is not None}
        stored = frozenset(ref.digest for ref, one in zip(wanted, brought.stored, strict=True) if one)
        if len(stored) == len(wanted):
            return ChunkAnswer([bytes(span.length) for span in spans], stored=stored)
        if not found and not stored:
            return ChunkAnswer(await read_spans(self.origin, blob, spans))
        answer = _Pieces(spans)
        for ref in refs:
            if (frame := found.get(ref.digest)) is not None:
                answer.put(ref.offset, frame)
        here = stored | found.keys()
        missing = answer.spans_of([ref for ref in refs if ref.digest not in here])
        for span, body in zip(missing, await read_spans(self.origin, blob, missing), strict=True):
            answer.put(span.offset, body)
        return ChunkAnswer(answer.bodies(), frozenset(found) if brought.keeps else frozenset(), stored)


class _Pieces:
    """The bodies of ranges, put together."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._parts = [(span, bytearray(span.length)) for span in spans]

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Bytes at an offset of the blob, within one of the ranges."""
        for span, body in self._parts:
            begin = offset - span.offset
            if 0 <= begin < span.length:
                body[begin : begin + len(data)] = data
                return

    def spans_of(self, refs: Sequence[ChunkRef]) -> list[Span]:
        """Ranges that hold these frames, none of them beyond one of ours."""
        found: list[Span] = []
        for span, _ in self._parts:
            frames = [
                (ref.offset, ref.frame_bytes) for ref in refs if 0 <= ref.offset - span.offset < span.length
            ]
            runs = coalesce(frames, max_bytes=span.length, max_gap_bytes=_MAX_GAP_BYTES)
            found += [Span(run.offset, run.length) for run in runs]
        return found

    def bodies(self) -> list[bytes]:
        """All of it."""
        return [bytes(body) for _, body in self._parts]
