"""How the bytes of a layer, or what lies in a directory, become entries of a ``LayerBuilder``."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cafs.convert.layer_builder import LayerBuilder
from cafs.convert.plain_stream import PlainStream
from cafs.convert.tar_reader import TarReader
from cafs.core.entry import Meta
from cafs.core.paths import clean_path
from cafs.core.tar import Entry
from cafs.errors import IntegrityError, UsageError

TreeFeed = Callable[[LayerBuilder, Iterator[bytes]], bytes]
"""Adds entries that it finds by itself, taking an (empty) piece now and then, which notices a cancelled
conversion; returns the diffID as raw sha256."""


@dataclass(frozen=True, slots=True)
class StreamFeed:
    """Adds the entries of a stream. Its plain bytes' sha256 is the diffID."""

    add: Callable[[LayerBuilder, PlainStream], None]
    decode: bool
    """Whether the stream may be compressed."""

    def __call__(self, builder: LayerBuilder, stream: PlainStream) -> bytes:
        """Add all of it; the raw diffID."""
        self.add(builder, stream)
        return stream.drain()


def _add_tar(builder: LayerBuilder, stream: PlainStream) -> None:
    reader = TarReader(stream)
    try:
        for entry in reader.entries():
            builder.add(entry, reader.fill)
    except UsageError as e:
        # What cannot be in a tree is a mistake of the layer here, not of the user.
        raise IntegrityError(str(e)) from e


tar_feed = StreamFeed(_add_tar, decode=True)
"""A tar in any compression."""


def file_feed(title: bytes, size: int) -> StreamFeed:
    """A blob that is one file, as artifacts have them: readable by all, without a time.

    Its title means nothing but itself: there are no whiteouts in artifacts.
    """

    def add(builder: LayerBuilder, stream: PlainStream) -> None:
        meta = Meta(stat.S_IFREG | 0o644)
        entry = Entry(title, meta, size, size, b"", is_hard_link=False, runs=None, map_in_data=False)
        builder.add_literally(clean_path(title), entry, stream.fill)

    return StreamFeed(add, decode=False)
