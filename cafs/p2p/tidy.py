"""What jobs want of what this host holds already: say it, delete it, make room. See ``Work``."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import trio

from cafs.fetch.index_quota import trim_indexes
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_store import TaskStore
from cafs.p2p.work import Result, Work

_HELD_BYTES = 40 << 10
"""Of the list in an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwanted:
    """Tasks that are to go: see ``DeleteTasks`` in proto/manager.proto."""

    task_ids: frozenset[str]
    url: str
    tag: str
    application: str

    def means(self, task: StoredTask) -> bool:
        """Is it one of them?"""
        if task.id in self.task_ids:
            return True
        spec = task.spec
        same = bool(self.url) and (spec.url, spec.application) == (self.url, self.application)
        return same and (spec.tag == self.tag or spec.tag.startswith(f"{self.tag}@"))


async def delete_tasks(work: Work, unwanted: Unwanted) -> Result:
    """Delete them, also such as are in use."""
    found = [task.id for task in work.tasks.tasks() if unwanted.means(task)]
    deleted = [await work.tasks.delete(task) for task in found]
    return {"tasks": deleted.count(True)}


async def list_held(work: Work) -> Result:
    """What is here.

    Raises:
        StorageError: the chunk store cannot be read.
    """
    stats = await trio.to_thread.run_sync(work.chunks.stats)
    tasks = list(work.engine.held())
    held: list[Any] = []
    size = 0
    for task in tasks:
        told = _told(task)
        size += len(json.dumps(told)) + 2
        if size > _HELD_BYTES:
            break
        held.append(told)
    return {
        "tasks": len(tasks),
        "task_bytes": work.tasks.used_bytes,
        "chunks": stats.chunks,
        "chunk_bytes": stats.used_bytes,
        "held": held,
    }


def _told(task: StoredTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "url": task.spec.url,
        "digest": task.spec.digest,
        "tag": task.spec.tag,
        "application": task.spec.application,
        "bytes": task.held_bytes,
        "complete": task.complete,
        "used_at": round(task.used_at_s),
    }


async def collect_garbage(work: Work, idle_s: int) -> Result:
    """Make room.

    Raises:
        StorageError: the chunk store cannot be used.
    """
    before = work.tasks.used_bytes
    deleted = await _delete_idle(work.tasks, time.time() - idle_s) if idle_s else 0
    collected = await trio.to_thread.run_sync(work.chunks.gc)
    index_bytes = await trio.to_thread.run_sync(trim_indexes, work.settings.cache_dir / "index")
    return {
        "tasks": deleted,
        "task_bytes": max(0, before - work.tasks.used_bytes),
        "chunk_bytes": collected.evicted_bytes,
        "index_bytes": index_bytes,
        "returned_bytes": collected.returned_bytes,
    }


async def _delete_idle(tasks: TaskStore, before_s: float) -> int:
    deleted = 0
    for task in tasks.tasks():
        if not task.in_use and task.used_at_s < before_s:  # as of now: deleting others took its time
            deleted += await tasks.delete(task.id)
    return deleted
