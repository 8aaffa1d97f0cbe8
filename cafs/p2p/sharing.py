"""Whether a content may be shared with others: asked wherever an origin's answer is looked at."""

from __future__ import annotations

import trio

from cafs.core.recent import Recent
from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.sharing import why_not_shared
from cafs.core.swarm.task import TaskSpec
from cafs.p2p.content import Headers, NotSharedError

OWN_S, MOST_OWN = 60.0, 1024
"""How long, and of how many contents, it is remembered that their origin lets nobody share them."""


def check_shared(spec: TaskSpec, told: Headers, sent: Headers) -> None:
    """Look at what the origin told, asked with the fields that were sent.

    Raises:
        NotSharedError: the content is for who asked only.
    """
    if not spec.digest and (why := why_not_shared(told, sent, private=spec.private)):
        raise NotSharedError(why)


class NotShared:
    """Contents that nobody need be asked for: who wants one asks its origin."""

    def __init__(self) -> None:
        self._known: Recent[TaskId, tuple[str, float]] = Recent(MOST_OWN)

    def check(self, spec: TaskSpec) -> None:
        """
        Raises:
            NotSharedError: it is one, as far as is known.
        """
        why, until = self._known.get(spec.task_id) or ("", 0.0)
        if trio.current_time() < until:
            raise NotSharedError(why)

    def note(self, spec: TaskSpec, error: NotSharedError) -> None:
        """Remember it for a while; but not what others, who ask otherwise, may share."""
        if error.why.startswith("Vary: ") and error.why != "Vary: *":
            return
        self._known.put(spec.task_id, (error.why, trio.current_time() + OWN_S))
