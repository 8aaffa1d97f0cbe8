"""Watches which chunks the start of an image reads, in order, and tells the manager about it.

Used by ``layers``. A layer is watched from the moment at which it is shown for the first time in this FUSE
session, for the image that it is shown for: of one that was shown before, the kernel may hold what a start
reads, and a later server does not know what was read before it. A start begins with the first read of any
of an image's layers and ends when nothing new was read for a while, when a layer is taken away, or after
half a minute. What it read is told by its chunks' names, and only once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import trio

from cafs.core.chunk import ChunkRef
from cafs.core.digest import Digest, parse_digest
from cafs.core.learning import MAX_CHUNKS
from cafs.core.profile import PREFIX_BYTES, Profile
from cafs.fetch.learned_profiles import LearnedProfiles
from cafs.fetch.reader import LayerReader
from cafs.node.mountd.images import FoundImage

log = logging.getLogger(__name__)

START_S = 30.0
"""From the first read on."""
PAUSE_S = 5.0
"""Without anything new: it has started."""


@dataclass(slots=True, eq=False)
class _Start:
    """One image that may be starting."""

    image: FoundImage
    layers: dict[LayerReader, int] = field(default_factory=dict)
    """With their numbers in the profile."""
    chunks: dict[tuple[int, bytes], None] = field(default_factory=dict)
    frame_bytes: int = 0
    read_at: float = 0.0
    """When something new was read last."""
    ended: trio.Event = field(default_factory=trio.Event)

    def profile(self) -> Profile:
        """What it read."""
        return Profile(tuple(parse_digest(layer.name) for layer in self.layers), tuple(self.chunks))


class Starts:
    """See the module. For one trio thread."""

    def __init__(self, learned: LearnedProfiles, nursery: trio.Nursery) -> None:
        """``nursery``: starts are watched in it."""
        self._learned = learned
        self._nursery = nursery
        self._of: dict[LayerReader, _Start] = {}
        self._open: dict[Digest, _Start] = {}
        """By image; until they have ended."""

    def note_shown(self, image: FoundImage, layer: LayerReader) -> None:
        """A layer is shown that was not shown before in this session."""
        start = self._open.setdefault(image.name.manifest, _Start(image))
        start.layers[layer] = len(start.layers)
        self._of[layer] = start

    def note_removed(self, layer: LayerReader) -> None:
        """A layer is shown no more."""
        start = self._of.get(layer)
        if start is not None:
            self._end(start)

    def note_read(self, layer: LayerReader, ref: ChunkRef) -> None:
        """A chunk is read for the first time."""
        start = self._of.get(layer)
        if start is None:
            return
        start.read_at = trio.current_time()
        if not start.chunks:
            self._nursery.start_soon(self._watch, start)
        if len(start.chunks) < MAX_CHUNKS:
            start.chunks[start.layers[layer], ref.digest[:PREFIX_BYTES]] = None
            start.frame_bytes += ref.frame_bytes

    def _end(self, start: _Start) -> None:
        for layer in start.layers:
            self._of.pop(layer, None)
        self._open.pop(start.image.name.manifest, None)
        start.ended.set()

    async def _watch(self, start: _Start) -> None:
        latest = start.read_at + START_S
        while not start.ended.is_set():
            with trio.move_on_at(min(start.read_at + PAUSE_S, latest)):
                await start.ended.wait()
            if trio.current_time() >= min(start.read_at + PAUSE_S, latest):
                self._end(start)
        name = start.image.name
        log.debug("a start of %s read %d chunks", name.image, len(start.chunks))
        try:
            await self._learned.report(name.manifest, name.image, start.profile(), start.frame_bytes)
        except Exception:  # a defect is one start that is not told, never a dead mount server
            log.exception("a start of %s could not be told in an unforeseen way", name.image)
