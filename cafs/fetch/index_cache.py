"""Layer indexes on the local disk: ``CACHE/index/HEX`` is the plain index file with that sha256.

Used by ``open_image``. A file gets its name only after its digest was right and ``check_index`` had walked
all of it, so what has a name was checked once and for all; the digest alone is verified again at each
opening, and a file that rotted is fetched again. Several processes may share the directory: files are
written beside and renamed, never changed.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path
from typing import IO

import trio

from cafs.core.digest import Digest
from cafs.errors import IntegrityError, NotFoundError, StorageError
from cafs.index.layer_index import LayerIndex
from cafs.oci.artifact import MAX_INDEX_BYTES, ArtifactLayer
from cafs.oci.durable import sweep_unfinished, write_all, write_beside
from cafs.oci.repository import Repository

_PIECE_BYTES = 1 << 20
_MAX_WINDOW_BYTES = 128 << 20
"""What decompressing may take; ``zstd --long=27``, more than the writer ever uses."""

log = logging.getLogger(__name__)


class IndexCache:
    """A directory of checked layer indexes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def open(self, repository: Repository, layer: ArtifactLayer) -> LayerIndex:
        """The layer's index, from the cache or from ``repository``.

        Raises:
            IntegrityError: the repository's index is not what the artifact says, or breaks the format.
            StorageError: the cache cannot be written (full, no rights).
            RemoteError, NotFoundError: the repository does not have it.
        """
        index = await self.open_cached(layer)
        if index is not None:
            return index
        await self._fetch(repository, layer)
        return await trio.to_thread.run_sync(self._open_fetched, layer)

    async def open_cached(self, layer: ArtifactLayer) -> LayerIndex | None:
        """The layer's index if it is here and sound."""
        return await trio.to_thread.run_sync(self._open_cached, layer)

    def _path(self, layer: ArtifactLayer) -> Path:
        return self._folder / layer.index_digest.partition(":")[2]

    def _open_cached(self, layer: ArtifactLayer) -> LayerIndex | None:
        path = self._path(layer)
        try:
            _verify_file(path, layer)
            return _open(path, layer)
        except NotFoundError:
            return None
        except IntegrityError as e:
            log.warning("the cached layer index %s is damaged and will be fetched again: %s", path.name, e)
            path.unlink(missing_ok=True)
            return None

    def _open_fetched(self, layer: ArtifactLayer) -> LayerIndex:
        return _open(self._path(layer), layer)

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        sweep_unfinished(self._folder)

    async def _fetch(self, repository: Repository, layer: ArtifactLayer) -> None:
        """Bring the index into the cache: download, decompress, verify, check, rename."""
        what = f"layer index {layer.index.digest} of {repository.name}"
        if max(layer.index.size, layer.index_size) > MAX_INDEX_BYTES:
            raise IntegrityError(f"{what} is larger than the {MAX_INDEX_BYTES} bytes allowed")
        try:
            await trio.to_thread.run_sync(self._prepare)
            with tempfile.TemporaryFile(dir=self._folder) as packed:
                async with repository.blob(layer.index) as pieces:
                    async for piece in pieces:
                        await trio.to_thread.run_sync(packed.write, piece)
                packed.seek(0)
                await trio.to_thread.run_sync(self._unpack, packed, layer, what)
        except OSError as e:
            raise StorageError(f"cannot write layer indexes into {self._folder}: {e.strerror}") from e

    def _unpack(self, packed: IO[bytes], layer: ArtifactLayer, what: str) -> None:
        # Imported here: an index that is cached needs neither of them, and a mount must not wait for numpy.
        from cafs.index.check import check_index  # noqa: PLC0415

        with write_beside(self._path(layer)) as descriptor:
            _decompress(packed, descriptor, layer, what)
            # The name is not known to us, but the file is: /proc/self/fd opens the very same one.
            with _open(Path(f"/proc/self/fd/{descriptor}"), layer) as index:
                try:
                    check_index(index)
                except IntegrityError as e:
                    raise IntegrityError(f"{what}: {e}") from e


def _decompress(packed: IO[bytes], descriptor: int, layer: ArtifactLayer, what: str) -> None:
    """Write the plain index, never more than declared, and verify it."""
    import zstandard  # noqa: PLC0415 - see above

    hasher, seen = hashlib.sha256(), 0
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(packed)
    try:
        while piece := reader.read(min(_PIECE_BYTES, layer.index_size - seen + 1)):
            seen += len(piece)
            if seen > layer.index_size:
                raise IntegrityError(
                    f"{what} decompresses to more than its declared {layer.index_size} bytes"
                )
            hasher.update(piece)
            write_all(descriptor, piece)
    except zstandard.ZstdError as e:
        raise IntegrityError(f"{what} is not valid zstd: {e}") from e
    if seen != layer.index_size:
        raise IntegrityError(f"{what} decompresses to {seen} bytes, declared are {layer.index_size}")
    _compare(hasher, layer.index_digest, what)


def _compare(hasher: hashlib._Hash, expected: Digest, what: str) -> None:
    if f"sha256:{hasher.hexdigest()}" != expected:
        raise IntegrityError(f"{what} does not match its digest {expected}")


def _verify_file(path: Path, layer: ArtifactLayer) -> None:
    try:
        with path.open("rb") as file:
            hasher = hashlib.file_digest(file, "sha256")
    except FileNotFoundError as e:
        raise NotFoundError(f"no layer index at {path}") from e
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}") from e
    _compare(hasher, layer.index_digest, str(path))


def _open(path: Path, layer: ArtifactLayer) -> LayerIndex:
    """Open an index and compare what it says of itself with what the artifact says."""
    index = LayerIndex.open(path)
    if f"sha256:{index.header.diff_id.hex()}" != layer.diff_id:
        index.close()
        raise IntegrityError(
            f"layer index {layer.index_digest} was made from another layer than {layer.diff_id}"
        )
    return index
