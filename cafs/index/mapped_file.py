"""Maps a file of the index cache into memory, with errors that say what it was to be."""

from __future__ import annotations

import mmap
import os
import threading
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

from cafs.errors import IntegrityError, NotFoundError, StorageError

_lock = threading.Lock()
_maps: WeakSet[mmap.mmap] = WeakSet()
"""All there are: resident memory is the process's, whoever opened the index."""


def map_file(path: Path, what: str) -> mmap.mmap:
    """Map a whole file for reading.

    Args:
        path: The file.
        what: It is to be, for messages: ``layer index``.

    Raises:
        NotFoundError: there is none.
        StorageError: it cannot be read.
        IntegrityError: it is empty.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as e:
        raise NotFoundError(f"no {what} at {path}") from e
    except OSError as e:
        raise StorageError(f"cannot open {what} {path}: {e.strerror}") from e
    try:
        if not os.fstat(descriptor).st_size:
            raise IntegrityError(f"{path} is no {what}: it is empty")
        mapping = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    except OSError as e:
        raise StorageError(f"cannot read {what} {path}: {e.strerror}") from e
    finally:
        os.close(descriptor)
    with _lock:
        _maps.add(mapping)
    return mapping


def release_index_pages() -> None:
    """Let go of the resident pages of all maps; whoever reads them has them back. Any thread."""
    with _lock:
        maps = list(_maps)
    for mapping in maps:
        with suppress(ValueError):  # closed meanwhile
            mapping.madvise(mmap.MADV_DONTNEED)
