"""Layer indexes on the local disk: ``CACHE/index/HEX`` is the plain index file with that sha256.

Used by ``open_image``. A file gets its name only after its digest was right and ``check_index`` had walked
all of it, so what has a name was checked once and for all; the digest alone is verified again at each
opening, and a file that rotted is fetched again. Several processes may share the directory: files are
written beside and renamed, never changed. What was not opened for long goes when space is short:
``index_quota``.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cafs.core.digest import Digest
from cafs.errors import IntegrityError, NotFoundError, StorageError
from cafs.index.layer_index import LayerIndex
from cafs.oci.artifact import MAX_INDEX_BYTES, ArtifactLayer
from cafs.oci.durable import sweep_unfinished, write_all, write_beside
from cafs.oci.in_thread import in_thread
from cafs.oci.repository import Repository

if TYPE_CHECKING:
    from cafs.fetch.check_process import CheckProcess
    from cafs.fetch.local_peer import LocalPeer

_PIECE_BYTES = 1 << 20
_MAX_WINDOW_BYTES = 128 << 20
"""What decompressing may take; ``zstd --long=27``, more than the writer ever uses."""

log = logging.getLogger(__name__)


Early = Callable[[ArtifactLayer, LayerIndex, bool], None]
"""Gets also whether the index was fetched, or lay in the cache."""


class IndexCache:
    """A directory of checked layer indexes."""

    def __init__(
        self, folder: Path, checker: CheckProcess | None = None, peer: LocalPeer | None = None
    ) -> None:
        """
        Args:
            folder: The directory.
            checker: Checks in a process of its own; None: a worker thread does.
            peer: This node's, asked before registries; None: nobody is.
        """
        self._folder = folder
        self._checker = checker
        self._peer = peer

    async def open(
        self, repository: Repository, layer: ArtifactLayer, early: Early | None = None
    ) -> LayerIndex:
        """The layer's index, from the cache or from ``repository``.

        Args:
            repository: Where it lies.
            layer: Whose index.
            early: Told of the index as soon as its bytes are verified, before it is checked: another
                opening of the same file, to prefetch by. No kernel may see it. Belongs to who is told.

        Raises:
            IntegrityError: the repository's index is not what the artifact says, or breaks the format.
            StorageError: the cache cannot be written (full, no rights).
            RemoteError, NotFoundError: the repository does not have it.
        """
        index = await self.open_cached(layer)
        if index is not None:
            if early is not None:
                early(layer, index, False)
            return index
        await self._fetch(repository, layer, early)
        return await in_thread(self._open_fetched, layer)

    async def open_cached(self, layer: ArtifactLayer) -> LayerIndex | None:
        """The layer's index if it is here and sound.

        Raises:
            IntegrityError: it is another layer's.
        """
        return await in_thread(self._open_cached, layer)

    def holds(self, layer: ArtifactLayer) -> bool:
        """Whether there is a file for the layer's index; ``open`` looks at whether it is sound."""
        return self._path(layer).exists()

    def _path(self, layer: ArtifactLayer) -> Path:
        return self._folder / layer.index_digest.partition(":")[2]

    def _open_cached(self, layer: ArtifactLayer) -> LayerIndex | None:
        path = self._path(layer)
        try:
            _verify_file(path, layer)
        except NotFoundError:
            return None
        except IntegrityError as e:
            log.warning("the cached layer index %s is damaged and will be fetched again: %s", path.name, e)
            path.unlink(missing_ok=True)
            return None
        # The file is as its name says: what is wrong from here on is wrong with the artifact that names it.
        with suppress(NotFoundError):  # its name was taken away meanwhile
            return _opened_now(path, layer)
        return None

    def _open_fetched(self, layer: ArtifactLayer) -> LayerIndex:
        return _open(self._path(layer), layer)

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        sweep_unfinished(self._folder)

    async def _fetch(self, repository: Repository, layer: ArtifactLayer, early: Early | None) -> None:
        """Bring the index into the cache: download, decompress, verify, check, rename."""
        import tempfile  # noqa: PLC0415 - see ``_check``

        from cafs.fetch.index_quota import trim_indexes  # noqa: PLC0415

        what = f"layer index {layer.index.digest} of {repository.name}"
        if max(layer.index.size, layer.index_size) > MAX_INDEX_BYTES:
            raise IntegrityError(f"{what} is larger than the {MAX_INDEX_BYTES} bytes allowed")
        try:
            await in_thread(self._prepare)
            with tempfile.TemporaryFile(dir=self._folder) as packed:
                await self._download(repository, layer, packed)
                packed.seek(0)
                await in_thread(self._unpack, packed, layer, what, early)
            await in_thread(trim_indexes, self._folder)
        except OSError as e:
            raise StorageError(
                f"cannot write layer indexes into {self._folder}: {e.strerror}"
                " (cache_dir has to be writable, with room)"
            ) from e

    async def _download(self, repository: Repository, layer: ArtifactLayer, packed: IO[bytes]) -> None:
        if self._peer is not None:
            whole = await self._peer.blob(repository, layer.index)
            if whole is not None:
                await in_thread(packed.write, whole)
                return
        async with repository.blob(layer.index) as pieces:
            async for piece in pieces:
                await in_thread(packed.write, piece)

    def _unpack(self, packed: IO[bytes], layer: ArtifactLayer, what: str, early: Early | None) -> None:
        from trio.from_thread import run_sync  # noqa: PLC0415 - see ``_check``

        with write_beside(self._path(layer)) as descriptor:
            _decompress(packed, descriptor, layer, what)
            # The name is not known to us, but the file is: /proc/self/fd opens the very same one.
            path = Path(f"/proc/self/fd/{descriptor}")
            if early is not None:
                run_sync(early, layer, _open(path, layer), True)
            try:
                self._check(path, descriptor, layer)
            except IntegrityError as e:
                raise IntegrityError(f"{what}: {e}") from e

    def _check(self, path: Path, descriptor: int, layer: ArtifactLayer) -> None:
        # Imported here: who finds all indexes in the cache must wait neither for trio nor for numpy.
        from trio.from_thread import run  # noqa: PLC0415

        with _open(path, layer) as index:
            if self._checker is None or not run(self._checker.check, descriptor):
                from cafs.index.check import check_index  # noqa: PLC0415

                check_index(index)


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


def _opened_now(path: Path, layer: ArtifactLayer) -> LayerIndex:
    index = _open(path, layer)
    with suppress(OSError):  # a cache that may only be read is as good
        os.utime(path)
    return index


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
