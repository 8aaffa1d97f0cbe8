"""A dictionary that forgets what was used longest ago. Pure.

For what is known of things that others name: without a bound it grows with everything that was ever named.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most ``most`` values by key, and more only while all of them are held."""

    def __init__(self, most: int, is_held: Callable[[V], bool] = lambda _value: False) -> None:
        """
        Args:
            most: Values kept.
            is_held: Of a value that may not go just now.
        """
        self._most = most
        self._is_held = is_held
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, which counts as used now."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value in place of what was there; others go for it."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            spare = next(
                (k for k, kept in self._values.items() if k != key and not self._is_held(kept)), None
            )
            if spare is None:
                return
            del self._values[spare]

    def values(self) -> Iterable[V]:
        """All that are kept; none counts as used."""
        return self._values.values()
