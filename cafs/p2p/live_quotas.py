"""The quotas of a peer's two stores follow its limits while it runs (trio).

Lowered, a store evicts at once. A disk that cannot is logged, and the peer goes on.
"""

from __future__ import annotations

import logging

import trio

from cafs.errors import StorageError
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.task_store import TaskStore
from cafs.store.chunk_store import ChunkStore

log = logging.getLogger(__name__)


async def keep_quotas(limits: LiveLimits, tasks: TaskStore, chunks: ChunkStore) -> None:
    """Run for ever; both stores were opened with the quotas that hold now."""
    before = limits.now
    while True:
        if limits.now is before:  # else they changed while the store evicted
            await limits.changed()
        before, quota_bytes = limits.now, before.store_quota_bytes
        tasks.set_quota(before.task_quota_bytes)
        if before.store_quota_bytes != quota_bytes:
            await _set_chunk_quota(chunks, before.store_quota_bytes)


async def _set_chunk_quota(chunks: ChunkStore, quota_bytes: int) -> None:
    try:
        collected = await trio.to_thread.run_sync(chunks.set_quota, quota_bytes)
    except StorageError as e:
        log.warning("the chunk store's quota of %d MiB: %s", quota_bytes >> 20, e)
    else:
        log.info(
            "the chunk store may hold %d MiB; %d bytes were evicted, %d returned to the disk",
            quota_bytes >> 20,
            collected.evicted_bytes,
            collected.returned_bytes,
        )
