"""What came of each task since the start, and from whom: for ``cafs top``. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cafs.core.swarm.ids import TaskId

MOST_TASKS, MOST_PARENTS = 256, 64


@dataclass(slots=True)
class TaskTraffic:
    """Verified bytes of one task."""

    source_bytes: int = 0
    peer_bytes: int = 0
    parents: Counter[str] = field(default_factory=Counter)
    """Bytes by the parent's address; of so many parents as gave the most."""


class Traffic:
    """Of the tasks that something came of last."""

    def __init__(self) -> None:
        self._of: dict[TaskId, TaskTraffic] = {}

    def note(self, task: TaskId, count: int, parent: str | None) -> None:
        """A piece came: from a parent, or (None) from the source."""
        found = self._of.pop(task, None)
        if found is None:
            found = TaskTraffic()
            while len(self._of) >= MOST_TASKS:
                del self._of[next(iter(self._of))]
        self._of[task] = found  # the one noted last is at the end
        if parent is None:
            found.source_bytes += count
            return
        found.peer_bytes += count
        found.parents[parent] += count
        if len(found.parents) > 2 * MOST_PARENTS:
            found.parents = Counter(dict(found.parents.most_common(MOST_PARENTS)))

    def to_json(self) -> dict[str, Any]:
        """By task."""
        return {
            task: {
                "source_bytes": of.source_bytes,
                "peer_bytes": of.peer_bytes,
                "parents": dict(of.parents.most_common(MOST_PARENTS)),
            }
            for task, of in self._of.items()
        }
