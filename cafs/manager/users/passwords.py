"""Passwords: argon2id (RFC 9106), never kept, logged or told.

Few are checked at once, since each costs 64 MiB for a moment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cafs.manager.refusals import ThrottledError

LEAST, MOST = 10, 256
"""Characters."""
_AT_ONCE, _WAITING = 2, 8


class Passwords:
    """See the module. May be used by several threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        """``hasher``: of another cost than RFC 9106 recommends, for tests."""
        self._hasher = hasher or PasswordHasher()
        self._work = threading.BoundedSemaphore(_AT_ONCE)
        self._places = threading.BoundedSemaphore(_WAITING)
        self._nobodys = self._hasher.hash("nobody's")
        """Checked where there is no account, so that an answer takes as long as where there is one."""

    def hash(self, password: str) -> str:
        """To be kept.

        Raises:
            ThrottledError: too many are at it.
        """
        with self._place():
            return self._hasher.hash(password)

    def is_right(self, kept: str | None, password: str) -> bool:
        """Whether it is the one; None, an account without password or none at all: never.

        Raises:
            ThrottledError: too many are at it.
        """
        with self._place():
            try:
                self._hasher.verify(kept or self._nobodys, password)
            except (VerificationError, InvalidHashError):
                return False
        return kept is not None

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise ThrottledError("too many passwords are being checked: try again", 1)
        try:
            with self._work:
                yield
        finally:
            self._places.release()
