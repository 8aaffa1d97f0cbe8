"""Builds a layer of very many small files, and tells how much memory that took.

    python tests/support/many_entries.py FOLDER ENTRIES RESIDENT_BYTES

prints by how many bytes the peak of the process's resident memory grew beyond that of a layer of 20,000,
how many bytes its scratch files took, and the index's inodes. A program of its own: the peak of a process
that did other things before says nothing.
"""

from __future__ import annotations

import os
import stat
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from bench.memory import resident_bytes
from cafs.convert.compress import ChunkWriter
from cafs.convert.known_chunks import KnownChunks
from cafs.convert.layer_builder import LayerBuilder
from cafs.core.chunking import ChunkingOptions
from cafs.core.entry import Meta
from cafs.core.tar import Entry
from cafs.index.scratch import Scratch

_FILE = Meta(stat.S_IFREG | 0o644)
_BYTES = 40
_USUAL = 20_000
"""Entries that use all buffers which any layer has."""


def main(folder: Path, entries: int, resident_bytes_more: int) -> None:
    """Print the three numbers."""
    with ThreadPoolExecutor(1) as executor:
        scratch = Scratch(folder)
        _build(folder, executor, _USUAL, scratch)
        del scratch
        usual, mapped = _resident("VmHWM"), _resident("RssFile") + _resident("RssShmem")
        scratch = Scratch(folder, mapped + resident_bytes_more)
        inodes = _build(folder, executor, entries, scratch)
        print(_resident("VmHWM") - usual, _unnamed_bytes(), inodes)


def _build(folder: Path, executor: Executor, entries: int, scratch: Scratch) -> int:
    options, known = ChunkingOptions(), KnownChunks(scratch)
    with (folder / "index").open("wb") as index, (folder / "chunks").open("wb") as chunks:
        writer = ChunkWriter(chunks, executor, known, options, scratch)
        builder = LayerBuilder(writer, known, options, scratch)
        for number in range(entries):
            content = number.to_bytes(_BYTES, "little")

            def fill(view: memoryview, content: bytes = content) -> None:
                view[:] = content

            name = b"module_%d.py" % (number * 7919 % entries)
            if number % 2:
                name = b"package_%d/%s" % (number // 100, name)
            builder.add_literally(name, Entry(name, _FILE, _BYTES, _BYTES, b"", False, None, False), fill)
        return builder.finish(index, bytes(32), None, None).header.inode_count


def _resident(kind: str) -> int:
    return resident_bytes(os.getpid(), kind)


def _unnamed_bytes() -> int:
    """What the open files that have no name take on disk."""
    found = [descriptor.stat() for descriptor in Path("/proc/self/fd").iterdir() if descriptor.exists()]
    return sum({one.st_ino: one.st_blocks * 512 for one in found if not one.st_nlink}.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
