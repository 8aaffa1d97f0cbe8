"""Disk access beside the trio loop: one worker thread for each call.

Used by layouts, archives and by ``cafs.fetch``. Loads trio only where a loop runs: a mount's first answers
(``cafs.node.first_answers``) are given before trio is loaded, from one thread that serves nobody else
meanwhile.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """``function(*args)`` in a worker thread; a cancellation waits until it is through.

    Where no trio loop runs, the call is made in the calling thread, and nothing is awaited.
    """
    if not _inside_trio():
        return function(*args)
    import trio  # noqa: PLC0415 - it is loaded: see above

    return await trio.to_thread.run_sync(functools.partial(function, *args))


def _inside_trio() -> bool:
    if "trio" not in sys.modules:
        return False
    from trio.lowlevel import in_trio_run  # noqa: PLC0415 - it is loaded

    return in_trio_run()
