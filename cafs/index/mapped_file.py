"""Maps a file of the index cache into memory, with errors that say what it was to be."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from cafs.errors import IntegrityError, NotFoundError, StorageError


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
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    except OSError as e:
        raise StorageError(f"cannot read {what} {path}: {e.strerror}") from e
    finally:
        os.close(descriptor)
