"""Where chunks are cut: the options and the two rules. Pure decisions, no bytes are moved here.

Used by ``cafs.convert``. Large files are cut by FastCDC (Xia et al., USENIX ATC 2016, and its 2020
sequel), starting and ending a chunk at the file's ends. Small files are packed, and a pack may only
be cut between two files, by the digest of the file before the cut: so an inserted, changed or removed
file changes the packs around it and no others. Why these numbers: docs/adr/0003-chunking.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyfastcdc
import zstandard

from cafs.core.writer_version import WRITER_VERSION

BLOCK_BYTES = 4096
_LEVEL = 4
_NORMALISATION: Literal[2] = 2


@dataclass(frozen=True, slots=True)
class ChunkingOptions:
    """What decides a layer's chunks, apart from its content."""

    min_bytes: int = 32 << 10
    avg_bytes: int = 64 << 10
    max_bytes: int = 256 << 10
    level: int = _LEVEL
    """Names one of the fixed parameter sets of ``compression_parameters``."""

    @property
    def small_file_bytes(self) -> int:
        """Files below this are packed, others cut on their own."""
        return self.avg_bytes

    @property
    def pack_max_bytes(self) -> int:
        """No pack is larger."""
        return 2 * self.avg_bytes

    @property
    def key(self) -> str:
        """The options in one word, the same for layers that may be reused for each other."""
        return (
            f"v{WRITER_VERSION}-fastcdc-{self.min_bytes}-{self.avg_bytes}-{self.max_bytes}-zstd-{self.level}"
        )


def compression_parameters(options: ChunkingOptions) -> zstandard.ZstdCompressionParameters:
    """The zstd parameters of a level, all written out: a library's own table may change."""
    if options.level != _LEVEL:
        raise ValueError(f"no parameter set {options.level}")
    return zstandard.ZstdCompressionParameters(
        window_log=19,
        chain_log=16,
        hash_log=16,
        search_log=1,
        min_match=4,
        target_length=0,
        strategy=zstandard.STRATEGY_DFAST,
        write_content_size=True,
        write_checksum=False,
    )


class FileCutter:
    """Cuts the bytes of one large file as they come. Stateless between calls."""

    def __init__(self, options: ChunkingOptions) -> None:
        self._max_bytes = options.max_bytes
        self._fastcdc = pyfastcdc.FastCDC(
            options.avg_bytes,
            min_size=options.min_bytes,
            max_size=options.max_bytes,
            normalized_chunking=_NORMALISATION,
        )

    def cuts(self, window: memoryview, *, final: bool) -> list[int]:
        """Ends of the chunks in ``window``, which starts at a cut.

        Args:
            window: The next bytes of the file.
            final: Nothing follows. Otherwise only those cuts are given that no later byte could
                change, and the rest of the window has to be offered again with what follows.
        """
        ends = []
        limit = len(window) if final else len(window) - self._max_bytes
        for chunk in self._fastcdc.cut_buf(window):
            if chunk.offset > limit or (chunk.offset == limit and not final):
                break
            ends.append(chunk.offset + chunk.length)
        return ends


def ends_pack(digest: bytes, file_bytes: int, pack_bytes: int, options: ChunkingOptions) -> bool:
    """Whether a pack is cut behind a file.

    The chance is proportional to the file's room, so packs come out near ``avg_bytes`` whatever the
    files' sizes; the digest decides, so that it is the same wherever the file is met.

    Args:
        digest: Of the file's content.
        file_bytes: Its room in the pack, padding included.
        pack_bytes: The pack's size with the file.
        options: The chunk sizes.
    """
    if pack_bytes < options.min_bytes:
        return False
    if pack_bytes >= options.pack_max_bytes:
        return True
    draw = int.from_bytes(digest[:4], "little")
    return draw * (options.avg_bytes - options.min_bytes) < file_bytes << 32
