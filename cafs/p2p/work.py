"""What this host can do for jobs of the manager, and how it tells how far it is.

Each is a plain async function, done in the same way as a client of this host would have it done, so that
doing it twice does no harm. Used by ``Orders``; belongs to the trio thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from cafs.core.settings import Settings
from cafs.oci.repositories import Repositories
from cafs.p2p.chunk_exchange import ChunkExchange
from cafs.p2p.content import Wish
from cafs.p2p.engine import Engine
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.task_store import TaskStore
from cafs.store.chunk_store import ChunkStore

Result = dict[str, Any]
"""What is to be told of it besides; as JSON at most 48 KiB."""
Tell = Callable[[int, int], None]
"""So many bytes are done, of so many (0: nobody knows). Called often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What it is done with."""

    settings: Settings
    engine: Engine
    tasks: TaskStore
    exchange: ChunkExchange
    chunks: ChunkStore
    repositories: Repositories
    profiles: ProfileRelay
    nursery: trio.Nursery
    """In which it is done."""


async def preheat_file(work: Work, wish: Wish, tell: Tell) -> Result:
    """Have all of a content here. A manager names it: this machine's loopback is not for that.

    Raises:
        CafsError: it cannot be had.
    """
    held = await work.engine.hold(wish, waits=False, of_others=True)
    try:
        await held.all_here(tell)
    finally:
        held.release()
    return {}
