"""The threads that the snapshotter's loop hands its waiting to: nothing that may block runs in the loop.

One thread carries out what the ledger does, one reads the database, a few count, delete and mount. Owned by
``program``. A call whose caller is cancelled runs to its end all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SLOW_THREADS = 16
"""Each may be caught in a mount that a hanging mount server does not answer."""


class Workers:
    """Three pools of threads."""

    def __init__(self) -> None:
        self._ledger = ThreadPoolExecutor(1, "ledger")
        self._reader = ThreadPoolExecutor(1, "reader")
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, "slow")

    async def ledger(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what changes the database."""
        return await self._run(self._ledger, function, *args, **kwargs)

    async def reader(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what reads the database."""
        return await self._run(self._reader, function, *args, **kwargs)

    async def slow(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what may take long."""
        return await self._run(self._slow, function, *args, **kwargs)

    async def _run(
        self, pool: ThreadPoolExecutor, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Let what is under way come to its end, but not what may hang for ever."""
        self._slow.shutdown(wait=False, cancel_futures=True)
        self._ledger.shutdown()
        self._reader.shutdown()
