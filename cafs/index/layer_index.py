"""``LayerIndex``: a layer index file, opened by memory map in constant time.

Used by everything that reads an index. Opening compares what the header declares with the file's
real length and nothing more; ``cafs.index.check.check_index`` looks at every byte that matters.
The file must not change while it is open (index files are written beside and renamed).
"""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path
from types import TracebackType
from typing import Self

from cafs.core.chunk_table import ChunkTable
from cafs.core.source import BlobRef
from cafs.errors import IntegrityError
from cafs.index.header import HEADER_BYTES, IndexHeader, parse_blob_table, parse_header
from cafs.index.mapped_file import map_file


class LayerIndex:
    """Made by ``open``; usable from several threads, as nothing in it changes."""

    def __init__(self, header: IndexHeader, mapping: mmap.mmap, path: Path) -> None:
        self.path = path
        """Where it was opened; the file may have lost this name since."""
        self.header = header
        self._mapping = mapping
        self._file = memoryview(mapping)
        self.metadata = self._file[HEADER_BYTES : header.blob_table_offset]
        """The EROFS metadata region."""
        rows = self._file[header.chunk_table_offset : header.file_bytes]
        self.table = ChunkTable(rows, header.metadata_bytes)
        blob_rows = self._file[header.blob_table_offset : header.chunk_table_offset]
        self.blobs: tuple[BlobRef, ...] = parse_blob_table(blob_rows)
        if self.table.data_end != header.virtual_bytes:
            raise IntegrityError(
                f"chunk table ends at {self.table.data_end}, the virtual image at {header.virtual_bytes}"
            )

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the file.

        Raises:
            NotFoundError: there is none.
            StorageError: it cannot be read.
            IntegrityError: it is no layer index, truncated, or its parts do not fit its length.
        """
        mapping = map_file(path, "layer index")
        try:
            return cls(parse_header(mapping[:HEADER_BYTES], len(mapping)), mapping, path)
        except IntegrityError as e:
            raise IntegrityError(f"{path}: {e}") from e

    @property
    def virtual_bytes(self) -> int:
        """Size of the virtual image."""
        return self.header.virtual_bytes

    def close(self) -> None:
        """Give the map back, unless somebody still holds a view of it: then it goes with the view."""
        with contextlib.suppress(BufferError):
            self.metadata.release()
            self.table.release()
            self._file.release()
            self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
