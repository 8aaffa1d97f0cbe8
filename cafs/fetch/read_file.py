"""Copies one file of a layer out, through a ``ChunkService``; for ``cafs cat``."""

from __future__ import annotations

from typing import BinaryIO

import trio

from cafs.fetch.reader import LayerReader
from cafs.index.reader import ErofsReader

_PIECE_BYTES = 1 << 20


async def copy_file(reader: LayerReader, tree: ErofsReader, nid: int, out: BinaryIO) -> None:
    """Write the bytes of a regular file to ``out``, holes as zeros.

    Runs in the service's trio thread; waits for the chunks and, in a worker thread, for ``out``.

    Raises:
        IntegrityError, RemoteError: as ``LayerReader.read``; what was written before was right.
    """
    extents, size = tree.extents(nid), tree.inode(nid).size
    if isinstance(extents, bytes):
        await trio.to_thread.run_sync(out.write, extents)
        return
    position = 0
    for file_offset, virtual_offset, length in [*extents, (size, 0, 0)]:
        while position < file_offset:
            hole = min(_PIECE_BYTES, file_offset - position)
            await trio.to_thread.run_sync(out.write, bytes(hole))
            position += hole
        while position < file_offset + length:
            wanted = min(_PIECE_BYTES, file_offset + length - position)
            pieces = await reader.read(virtual_offset + position - file_offset, wanted)
            await trio.to_thread.run_sync(out.writelines, pieces)
            position += wanted
