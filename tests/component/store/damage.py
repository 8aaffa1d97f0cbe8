"""Does to a store's file what disks do."""

from __future__ import annotations

from pathlib import Path

from cafs.core.chunk import Chunk


def data_file(store: Path) -> Path:
    """The LMDB data file."""
    return store / "chunks" / "data.mdb"


def flip_in_frame(store: Path, chunk: Chunk) -> None:
    """Flip a bit in the middle of a stored frame."""
    frame = bytes(chunk.frame)
    content = data_file(store).read_bytes()
    flip(store, content.index(frame[1000:1100]) + 50)


def flip(store: Path, offset: int, mask: int = 1) -> None:
    """Flip bits of one byte."""
    with data_file(store).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ mask,)))
