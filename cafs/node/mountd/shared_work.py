"""Work that several callers want at the same time is done once.

It runs in the owner's nursery, not in the first caller's task: a caller that gives up, or whose time is over,
ends nobody else's, and the work goes on for the next one who asks.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from cafs.errors import CafsError, leading_error

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Flight(Generic[V]):
    """One piece of work under way."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.values: list[V] = []
        """One when it went well."""
        self.failure: CafsError | None = None


class SharedWork(Generic[K, V]):
    """At most one piece of work for each key."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._flights: dict[K, _Flight[V]] = {}

    async def do(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """The value of the work for ``key``, which is begun unless it is under way.

        Raises:
            CafsError: as the work did; each caller gets an error of its own.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._run, key, flight, work)
        await flight.ended.wait()
        if flight.failure is not None:
            raise copy_error(flight.failure) from flight.failure
        return flight.values[0]

    async def _run(self, key: K, flight: _Flight[V], work: Callable[[], Awaitable[V]]) -> None:
        try:
            flight.values.append(await work())
        except Exception as e:  # a defect is one failed request, never a dead mount server
            failure = leading_error(e)
            if not isinstance(failure, CafsError):
                log.exception("work for %s failed in an unforeseen way", key)
                failure = CafsError(f"unforeseen: {type(failure).__name__}: {failure}")
            flight.failure = failure
        finally:
            del self._flights[key]
            flight.ended.set()


def copy_error(error: CafsError) -> CafsError:
    """Another one that says the same: a shared exception would gather everybody's traceback."""
    other = type(error).__new__(type(error), *error.args)
    other.args = error.args
    other.__dict__.update(error.__dict__)
    return other
