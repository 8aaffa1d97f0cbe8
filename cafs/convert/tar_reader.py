"""Entries of a tar stream, with their data read on demand: the shell round ``cafs.core.tar``.

Used by one conversion thread. What a caller leaves of an entry's data is passed over.

An archive may end wherever a header could follow, with its blocks of zeros or without, as GNU tar and Go
read it: umoci does not write them. That nothing is missing there is said by the layer's diffID.
"""

from __future__ import annotations

from collections.abc import Iterator

from cafs.convert.plain_stream import PlainStream
from cafs.core.tar import END, FIRST_NEED, Entry, Need, TarParser
from cafs.core.tar_header import BLOCK_BYTES
from cafs.core.tar_sparse import SparseMapReader, check_runs
from cafs.errors import IntegrityError


class TarReader:
    """Iterates over the entries of one archive."""

    def __init__(self, stream: PlainStream) -> None:
        self._stream = stream
        self._left = 0
        """Bytes of the current entry's data that nobody read yet."""
        self._padding = 0

    def entries(self) -> Iterator[Entry]:
        """Every entry in order.

        Raises:
            IntegrityError: the archive is damaged, truncated or not a tar.
        """
        parser, need = TarParser(), FIRST_NEED
        while True:
            data = self._stream.read(need.size)
            if len(data) < need.size:
                if data:
                    raise IntegrityError("the tar ends in the middle of a header: it is truncated")
                parser.finish()
                return
            if need.payload:
                self._stream.skip(-need.size % BLOCK_BYTES)
            answer = parser.feed(data)
            if answer is END:
                return
            if isinstance(answer, Need):
                need = answer
                continue
            assert isinstance(answer, Entry)
            self._left, self._padding = answer.stored_bytes, -answer.stored_bytes % BLOCK_BYTES
            if answer.map_in_data:
                self._read_map(answer)
            yield answer
            self._stream.skip(self._left)
            self._stream.read(self._padding)  # which the last entry may lack, as all that follows
            need = FIRST_NEED

    def fill(self, view: memoryview) -> None:
        """The next bytes of the current entry's data."""
        if len(view) > self._left:
            raise IntegrityError("an entry holds less data than it declares")
        self._stream.fill(view)
        self._left -= len(view)

    def _read_map(self, entry: Entry) -> None:
        reader, runs = SparseMapReader(), None
        while runs is None:
            block = self._stream.read(min(BLOCK_BYTES, self._left))
            self._left -= len(block)
            runs = reader.feed(block)
        entry.runs = check_runs(runs, entry.size, self._left)
