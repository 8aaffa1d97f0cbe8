"""Programs and libraries are fetched, and what they need with them, once they are begun to be read.

A dynamic program's start is a chain: the kernel reads its head, the loader its symbols and relocations, then
the head of each library, and so on; each link costs a round trip over a link that is idle otherwise. But what
is read is written in the files (``fetch.program_rows``). So when a reader has the first block of such a file,
or an image's entry point is known before anybody reads, the rest is fetched, and the libraries that it needs
as well, found in the image's own tree. Code of libraries and large programs follows when some of it is run.

Owned by ``ChunkService``; runs as a task in its nursery. ``note_begun`` is called for every read, and
``note_touched`` for every chunk that is read first: each costs a comparison. What is fetched in vain is
bounded by the account of riders.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from cafs.core.elf import HEAD_BYTES, parse_elf, parse_interpreter
from cafs.errors import CafsError
from cafs.fetch.elf_needs import Finder, Place, find_needed
from cafs.fetch.program_rows import Later, plan_rows
from cafs.fetch.reader import LayerReader

log = logging.getLogger(__name__)

INBOX = 256
AT_ONCE = 16
_PATIENCE_S = 10.0
_MAX_SEEN = 8192
_MAX_SIGNS = 1 << 16


class Fetching(Protocol):
    """What is needed of the service."""

    async def peek(self, layer: LayerReader, offset: int, size: int, deadline: float) -> bytes:
        """Bytes of the image, not counted as read by anybody."""
        ...

    async def bring_program(self, layer: LayerReader, rows: Sequence[int]) -> None:
        """Have these rows fetched, as far as the account allows."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    layer: LayerReader
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Code is run: fetch these rows of it."""

    layer: LayerReader
    rows: Sequence[int]


class Programs:
    """Follows programs of the layers it was told of."""

    def __init__(self, fetching: Fetching) -> None:
        self._fetching = fetching
        self._finders: dict[LayerReader, Finder | None] = {}
        self._seen: set[Place] = set()
        self._signs: dict[tuple[LayerReader, int], Later] = {}
        """Rows of code that is not fetched yet."""
        self._begun, self._inbox = trio.open_memory_channel[_Begun | _Run](INBOX)
        self._limit = trio.CapacityLimiter(AT_ONCE)

    def follow(self, layers: Iterable[LayerReader], finder: Finder | None) -> None:
        """From now on programs in these layers are followed; ``finder`` finds what they need."""
        for layer in layers:
            self._finders[layer] = finder

    def forget(self, layer: LayerReader) -> None:
        """The layer is gone."""
        self._finders.pop(layer, None)
        self._seen = {place for place in self._seen if place[0] is not layer}
        self._signs = {sign: later for sign, later in self._signs.items() if sign[0] is not layer}

    def note_begun(self, layer: LayerReader, offset: int) -> None:
        """Somebody has the first block of a program, or means to."""
        if layer not in self._finders or (layer, offset) in self._seen:
            return
        try:
            self._begun.send_nowait(_Begun(layer, offset))
        except trio.WouldBlock:
            return
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.add((layer, offset))

    def note_touched(self, layer: LayerReader, row: int) -> None:
        """A reader reads this row for the first time."""
        later = self._signs.get((layer, row))
        if later is None:
            return
        for sign in later.signs:
            self._signs.pop((layer, sign), None)
        with suppress(trio.WouldBlock):
            self._begun.send_nowait(_Run(layer, later.rows))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            async for begun in self._inbox:
                await self._limit.acquire_on_behalf_of(begun)
                nursery.start_soon(self._follow_one, begun)

    async def _follow_one(self, begun: _Begun | _Run) -> None:
        try:
            if isinstance(begun, _Run):
                await self._fetching.bring_program(begun.layer, begun.rows)
            else:
                await self._follow(begun.layer, begun.offset)
        except CafsError as e:
            log.debug("a program was not followed: %s", e)
        finally:
            self._limit.release_on_behalf_of(begun)

    async def _follow(self, layer: LayerReader, offset: int) -> None:
        head = await self._peek(layer, offset, HEAD_BYTES)
        elf = parse_elf(head)
        if elf is not None:
            plan = plan_rows(layer, offset, elf)
            for later in plan.later:
                self._watch(layer, later)
            await self._fetching.bring_program(layer, plan.rows)
        finder = self._finders.get(layer)
        if finder is None:
            return
        if elf is not None:
            needed = await find_needed(self._peek, (layer, offset), elf, finder)
            places = [one.place for one in needed]
        else:
            found = [finder.file(word) for word in parse_interpreter(head)[:1]]
            places = [place for place in found if place is not None]
        for place in places:
            self.note_begun(*place)

    def _watch(self, layer: LayerReader, later: Later) -> None:
        if len(self._signs) >= _MAX_SIGNS:
            self._signs.clear()
        self._signs |= {(layer, row): later for row in later.signs}
        touched = next((row for row in later.signs if layer.touched[row]), None)
        if touched is not None:
            self.note_touched(layer, touched)

    async def _peek(self, layer: LayerReader, offset: int, size: int) -> bytes:
        return await self._fetching.peek(layer, offset, size, trio.current_time() + _PATIENCE_S)
