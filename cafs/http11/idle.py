"""Connections that wait for the next request to whom they lead; few, and none for long.

Whoever talks to many servers, one after the other, must not be left with a descriptor for each of them. For
use from one trio thread; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import trio


class Kept(Protocol):
    """What is needed of a connection."""

    def is_alive(self) -> bool:
        """It may be used."""
        ...

    def close(self) -> None:
        """Now."""
        ...


Key = TypeVar("Key", bound=Hashable)
C = TypeVar("C", bound=Kept)


class IdleConnections(Generic[Key, C]):
    """See the module."""

    def __init__(self, kept_s: float, *, most: int, most_of_one: int) -> None:
        """
        Args:
            kept_s: None waits for longer.
            most: To all servers together; of more the one that waits for longest is closed.
            most_of_one: To one server.
        """
        self._kept_s = kept_s
        self._most = most
        self._most_of_one = most_of_one
        self._kept: dict[Key, list[tuple[C, float]]] = {}

    def take(self, key: Key) -> C | None:
        """The one that was used last and is still good."""
        kept, now = self._kept.get(key, []), trio.current_time()
        while kept:
            connection, since = kept.pop()
            if not kept:
                del self._kept[key]
            if since + self._kept_s > now and connection.is_alive():
                return connection
            connection.close()
        return None

    def keep(self, key: Key, connection: C) -> None:
        """It is fit for another request."""
        now = trio.current_time()
        self._kept.setdefault(key, []).append((connection, now))
        self._drop(lambda since: since + self._kept_s <= now)
        if len(self._kept[key]) > self._most_of_one:
            self._kept[key].pop(0)[0].close()
        elif len(self) > self._most:
            oldest = min(since for kept in self._kept.values() for _, since in kept)
            self._drop(lambda since: since == oldest)

    def drop(self, key: Key) -> None:
        """Those to one server: a connection to it has turned out to be dead, and these are no younger."""
        for connection, _ in self._kept.pop(key, []):
            connection.close()

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def close(self) -> None:
        """All of them."""
        self._drop(lambda _since: True)

    def _drop(self, is_unwanted: Callable[[float], bool]) -> None:
        for key, kept in list(self._kept.items()):
            for connection, since in kept:
                if is_unwanted(since):
                    connection.close()
            self._kept[key] = [one for one in kept if not is_unwanted(one[1])]
            if not self._kept[key]:
                del self._kept[key]
