"""Slows down who guesses: after some wrong guesses each further one waits twice as long as the one before.

Guesses are counted for an account at an address, for an address, and for an account; the last one allows
more and waits less, so that nobody can lock another one out. An attempt counts as wrong until it turns out
right, so that a thousand at once are no way round. Of this process only; nothing is kept on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_KEPT = 10_000
_FORGOTTEN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Key:
    """What guesses are counted for."""

    what: str
    free: int
    """So many wrong ones cost nothing."""
    most_s: float
    """The longest wait."""


def keys_of(name: str, address: str) -> tuple[Key, ...]:
    """For signing in."""
    return (
        Key(f"pair {name} {address}", 5, 900),
        Key(f"address {address}", 20, 900),
        Key(f"name {name}", 50, 30),
    )


def key_of_tokens(address: str) -> tuple[Key, ...]:
    """For tokens that nobody has."""
    return (Key(f"tokens {address}", 20, 900),)


def key_of_provider(address: str) -> tuple[Key, ...]:
    """For sign-ins at the OpenID provider that are begun, until one succeeds."""
    return (Key(f"provider {address}", 50, 60),)


@dataclass(slots=True)
class _Count:
    wrong: int = 0
    until: float = 0.0
    last: float = 0.0


class Throttle:
    """See the module. May be used by several threads."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        """Longest untouched first."""
        self._lock = threading.Lock()

    def attempt(self, keys: Sequence[Key], now: float) -> float:
        """Before a guess is looked at: for how long none is. When that is 0, one more is counted."""
        with self._lock:
            wait = max((self._wait(key, now) for key in keys), default=0.0)
            if not wait:
                for key in keys:
                    self._count(key, now)
            return wait

    def was_right(self, keys: Sequence[Key]) -> None:
        """It was no guess: the first key's count begins anew, and the others do not count this attempt."""
        with self._lock:
            for key in keys[1:]:
                if (count := self._counts.get(key.what)) is not None and count.wrong:
                    count.wrong -= 1
                    if count.wrong <= key.free:
                        count.until = 0.0
            for key in keys[:1]:
                self._counts.pop(key.what, None)

    def _wait(self, key: Key, now: float) -> float:
        count = self._counts.get(key.what)
        return 0.0 if count is None else max(0.0, count.until - now)

    def _count(self, key: Key, now: float) -> None:
        count = self._counts.pop(key.what, None)
        if count is None or now - count.last > _FORGOTTEN_S:
            count = _Count()
        count.wrong, count.last = count.wrong + 1, now
        if count.wrong > key.free:
            count.until = now + min(key.most_s, 2.0 ** min(count.wrong - key.free - 1, 30))
        self._counts[key.what] = count
        if len(self._counts) > _MOST_KEPT:
            del self._counts[next(iter(self._counts))]
