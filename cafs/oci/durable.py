"""Files that appear whole or not at all: written beside, synced, renamed.

Used by layouts and by the index cache. Synchronous; OSError is left to the caller, who can name what it
was writing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cafs.oci.blob_check import BlobCheck

_PIECE_BYTES = 1 << 20
_PREFIX = ".new-"
_DEAD_AFTER_S = 86400
"""Nobody writes one file for so long without its time stamp moving."""


@contextmanager
def write_beside(path: Path, *, durable: bool = True) -> Iterator[int]:
    """A new file's descriptor; the file takes the place of ``path`` when the block ends well.

    Readers see the old file or the whole new one. After any failure nothing new is left.

    Args:
        path: The file.
        durable: It is on the disk before it has its name; False: a crash of the machine may leave a torn one.
    """
    import tempfile  # noqa: PLC0415 - slow to load, and readers write nothing

    descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=path.parent)
    try:
        yield descriptor
        os.fchmod(descriptor, 0o644)
        if durable:
            os.fsync(descriptor)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """``os.write`` until everything is written."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sweep_unfinished(folder: Path) -> None:
    """Remove what writers left that were killed: only a kill -9 leaves anything."""
    for path in folder.glob(_PREFIX + "*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _DEAD_AFTER_S:
                path.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """``path`` gets ``content``, whole or not at all."""
    with write_beside(path) as descriptor:
        write_all(descriptor, content)


def adopt_file(source: Path, target: Path, check: BlobCheck, *, trusted_bytes: int | None = None) -> None:
    """``source``, verified by ``check``, appears as ``target``: as a hard link, else as a copy.

    Args:
        trusted_bytes: Of a file whose writer hashed it on the way; where a link is enough and the size is
            this, it is not read again.

    Raises:
        IntegrityError: ``source`` is not what ``check`` expects.
        OSError: as the filesystem says.
    """
    import tempfile  # noqa: PLC0415 - slow to load, and readers write nothing

    descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=target.parent)
    beside = Path(name)
    try:
        linked = _link_over(source, beside)
        with source.open("rb") as reader:
            if not (linked and os.fstat(reader.fileno()).st_size == trusted_bytes):
                while piece := reader.read(_PIECE_BYTES):
                    check.feed(piece)
                    if not linked:
                        write_all(descriptor, piece)
                check.finish()
            durable = reader.fileno() if linked else descriptor
            os.fchmod(durable, 0o644)
            os.fsync(durable)
        beside.rename(target)
    finally:
        os.close(descriptor)
        beside.unlink(missing_ok=True)


def _link_over(source: Path, beside: Path) -> bool:
    """Replace the empty file ``beside`` by a hard link to ``source``; False where links cannot be."""
    link = beside.with_name(beside.name + "-link")
    try:
        os.link(source, link, follow_symlinks=True)
    except OSError:  # another filesystem, one without links, too many links: then it is copied
        return False
    link.rename(beside)
    return True
