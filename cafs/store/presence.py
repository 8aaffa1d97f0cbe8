"""Who uses a store, and did everybody leave it in good order?

Each process that has the store open holds a flock on its own file ``users/PID`` and removes the file when
it closes the store. A file without a lock is what a process left that died: then the store's pages are
checked before the next use. (Death by kill -9 never harms LMDB, but death by SIGBUS or SIGSEGV is how a
damaged page shows, and afterwards the two look alike.)

``entry_lock`` serialises opening, closing, replacing and compacting between processes. flock, not fcntl:
it belongs to the open file, so a second open in the same process is noticed too.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafs.errors import StateError, StorageError

_log = logging.getLogger(__name__)

SUSPECT = "?"
"""The verdict of who met an error of LMDB and does not know what is wrong."""
_UNSAID = "\0"
"""Stands for it where the disk had no room for a letter: a hole in the file."""


@contextmanager
def entry_lock(store: Path) -> Iterator[None]:
    """Hold the store's door; others wait."""
    try:
        fd = os.open(store / "door.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StorageError(f"chunk store {store}: cannot lock it: {e.strerror}") from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Presence:
    """This process's mark at a store. All methods are called while ``entry_lock`` is held."""

    def __init__(self, store: Path) -> None:
        """Leave the mark.

        Raises:
            StateError: this process has the store open already.
            StorageError: the mark cannot be written.
        """
        self._folder = store / "users"
        self._path = self._folder / str(os.getpid())
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._deaths = store / "deaths"
            self._dead = [path for path in self._folder.iterdir() if not _is_held(path)]
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StorageError(f"chunk store {store}: cannot mark it as used: {e.strerror}") from e
        if not _try_lock(self._fd):
            os.close(self._fd)
            # Also for a process of another pid namespace that has our number: LMDB would mix us up as well.
            raise StateError(f"the chunk store {store} is already open in this process (pid {os.getpid()})")

    @property
    def found_dead(self) -> bool:
        """Did somebody die here, and nobody check the store since?"""
        return bool(self._dead)

    def count_death(self) -> int:
        """Note that somebody died here; returns how many did since anybody left in good order."""
        try:
            count = int(self._deaths.read_text()) + 1
        except (OSError, ValueError):
            count = 1
        try:
            self._deaths.write_text(str(count))
        except OSError as e:
            _log.debug("cannot count deaths in %s: %s", self._deaths, e)
        return count

    def verdict(self) -> str:
        """What one of those who left their mark found wrong with the store; empty when nobody did."""
        texts = (path.read_text(errors="replace") for path in self._dead)
        return next((SUSPECT if text == _UNSAID else text for text in texts if text), "")

    def absolve(self) -> None:
        """The store was checked: forget those who died."""
        for path in self._dead:
            if path != self._path:
                path.unlink(missing_ok=True)
        os.truncate(self._fd, 0)
        self._dead = []

    def others(self) -> int:
        """How many other processes have the store open."""
        return sum(1 for path in self._folder.iterdir() if path != self._path and _is_held(path))

    def withdraw(self, *, clean: bool, verdict: str = "") -> None:
        """Leave; not ``clean`` leaves the mark, so that who comes next checks the store.

        With a ``verdict``, who comes next replaces it without another look. A disk that takes nothing more
        costs a warning and the verdict, and never the look.
        """
        try:
            if clean:
                self._path.unlink(missing_ok=True)
                self._deaths.unlink(missing_ok=True)
            else:
                self._leave(verdict or SUSPECT)
        except OSError as e:
            _log.warning("how the chunk store was left cannot be written to %s: %s", self._path, e.strerror)
        finally:
            os.close(self._fd)

    def _leave(self, verdict: str) -> None:
        try:
            os.write(self._fd, verdict.encode())
        except OSError:
            os.ftruncate(self._fd, len(_UNSAID))  # takes no block
            raise


def _is_held(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
