"""One program for a directory: a lock that ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafs.errors import StateError, StorageError


@contextmanager
def locked(directory: Path, program: str) -> Iterator[None]:
    """Have the directory, made 0700 if it is not there, to oneself.

    Args:
        directory: Where the lock is kept.
        program: As whoever is refused should read it: ``cafs peer``.

    Raises:
        StateError: another one has it.
        StorageError: it cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StorageError(f"cannot use {directory}: {e.strerror}") from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as e:
        raise StateError(f"another {program} runs on {directory}") from e
    finally:
        os.close(lock)
