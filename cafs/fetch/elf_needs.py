"""Which files a program or library needs to be started: its loader, and the libraries that it names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from cafs.core.elf import MAX_NAME_BYTES, Elf, parse_dynamic, parse_name
from cafs.fetch.reader import LayerReader

Place = tuple[LayerReader, int]
"""A file by its layer and where it begins in the virtual image."""
Read = Callable[[LayerReader, int, int], Awaitable[bytes]]
"""(layer, offset, size): bytes of a layer's virtual image."""


class Needed(NamedTuple):
    """A file that is loaded."""

    name: bytes
    """As the program gives it: of libraries mostly without a folder."""
    place: Place


class Finder(Protocol):
    """Finds files of an image."""

    def library(self, name: bytes) -> Place | None:
        """A library by the name that a program gives it."""
        ...

    def file(self, path: bytes) -> Place | None:
        """A file by its path."""
        ...


async def find_needed(read: Read, place: Place, elf: Elf, finder: Finder) -> list[Needed]:
    """The loader and the libraries that a program at ``place`` names, as far as the image has them."""
    layer, offset = place
    found: list[tuple[bytes, Place | None]] = []
    if elf.interpreter is not None:
        begin, size = elf.interpreter
        path = parse_name(await read(layer, offset + begin, size))
        found += [(path, finder.file(path))] if path else []
    names = strings = None
    if elf.dynamic is not None:
        begin, size = elf.dynamic
        names = parse_dynamic(await read(layer, offset + begin, size))
        strings = elf.offset_of(names[0]) if names else None
    if names is not None and strings is not None:
        for where in names[1]:
            name = parse_name(await read(layer, offset + strings + where, MAX_NAME_BYTES))
            found += [(name, finder.library(name))] if name else []
    return [Needed(name, where) for name, where in found if where is not None]
