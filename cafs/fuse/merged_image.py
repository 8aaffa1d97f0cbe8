"""The virtual image of a whole image: metadata of its own, and the data of its layers one after the other.

What the driver ``erofs`` mounts of an image of several layers (``cafs.index.merged_index``). Which layer a
byte
is read from is all that is decided here: everything else is its reader's business.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cafs.fuse.flat import VirtualImage
from cafs.fuse.tree import Buffer


@dataclass(frozen=True, slots=True)
class LayerData:
    """The data region of a layer."""

    image: VirtualImage
    """Of the layer."""
    start: int
    """Where the region begins in it; it ends with it."""

    @property
    def length(self) -> int:
        """In bytes."""
        return self.image.virtual_bytes - self.start


class MergedImage:
    """A ``VirtualImage``."""

    def __init__(self, metadata: memoryview, layers: Sequence[LayerData]) -> None:
        """
        Args:
            metadata: Of the merged image.
            layers: Lowest first.
        """
        self.about = ""
        """A read that fails says which layer it was."""
        self._metadata = metadata
        self._layers = [layer for layer in layers if layer.length]
        self._starts = []
        end = len(metadata)
        for layer in self._layers:
            self._starts.append(end)
            end += layer.length
        self.virtual_bytes = end

    def try_read(self, offset: int, size: int) -> Sequence[Buffer] | None:
        """See ``VirtualImage``."""
        pieces = self._metadata_pieces(offset, size)
        for layer, begin, length in self._parts(offset, size):
            part = layer.image.try_read(begin, length)
            if part is None:
                return None
            pieces += part
        return pieces

    async def read(self, offset: int, size: int) -> Sequence[Buffer]:
        """See ``VirtualImage``."""
        pieces = self._metadata_pieces(offset, size)
        for layer, begin, length in self._parts(offset, size):
            pieces += await layer.image.read(begin, length)
        return pieces

    def _metadata_pieces(self, offset: int, size: int) -> list[Buffer]:
        return [self._metadata[offset : offset + size]] if 0 <= offset < len(self._metadata) else []

    def _parts(self, offset: int, size: int) -> Iterator[tuple[LayerData, int, int]]:
        """(layer, offset in its image, bytes) of what is data."""
        end = min(offset + size, self.virtual_bytes)
        offset = max(offset, len(self._metadata))
        while offset < end:
            number = bisect_right(self._starts, offset) - 1
            layer, within = self._layers[number], offset - self._starts[number]
            length = min(end - offset, layer.length - within)
            yield layer, layer.start + within, length
            offset += length
