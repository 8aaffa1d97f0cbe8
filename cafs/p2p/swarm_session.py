"""One download's place in a swarm: what it tells its scheduler, and what it hears.

Made by ``Schedulers.join``. While no scheduler answers, what is told is dropped: a new stream begins with all
that the host holds. Belongs to the trio thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from cafs.core.swarm.ids import HostId, PeerId, TaskId
from cafs.core.swarm.messages import FailReason, FinishedPiece, Outcome, SwarmEvent
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.p2p import scheduler_messages as messages
from cafs.proto import p2p_pb2

Hear = Callable[[SwarmEvent], None]


class Line(Protocol):
    """A stream to a scheduler, while it lasts."""

    def send(self, message: p2p_pb2.FromHost) -> None: ...


class Session:
    """See the module."""

    def __init__(
        self,
        spec: TaskSpec,
        hear: Hear,
        end: Callable[[Session], None],
        *,
        whole: bool = True,
        chunks_only: bool = False,
    ) -> None:
        self.spec = spec
        self.peer_id = PeerId(secrets.token_hex(16))
        self.hear = hear
        """Gets what the scheduler says of this download."""
        self._end = end
        self.whole = whole
        self._chunks_only = chunks_only
        self._line: Line | None = None

    @property
    def task(self) -> TaskId:
        return self.spec.task_id

    @property
    def scheduled(self) -> bool:
        """Some scheduler knows of it."""
        return self._line is not None

    @property
    def line(self) -> Line | None:
        return self._line

    def move(self, line: Line | None) -> None:
        """From now on this is its scheduler; only for ``Schedulers``."""
        if self._line is not None:
            self._line.send(messages.left(self.peer_id))
        self._line = line
        self._register()

    def want(self, *, whole: bool, priority: int) -> None:
        """More than before is wanted, or more urgently; what is less changes nothing."""
        if (whole and not self.whole) or priority > self.spec.priority:
            self.whole = self.whole or whole
            self.spec = replace(self.spec, priority=max(priority, self.spec.priority))
            self.register_anew()

    def register_anew(self) -> None:
        """The scheduler has forgotten it, or does not know yet what it wants."""
        self.peer_id = PeerId(secrets.token_hex(16))
        self._register()

    def _register(self) -> None:
        self._say(messages.register(self.peer_id, self.spec, whole=self.whole, chunks_only=self._chunks_only))

    def tell_meta(self, meta: TaskMeta) -> None:
        """What the source says of the content."""
        self._say(messages.meta(self.task, meta))

    def tell_pieces(self, pieces: Sequence[FinishedPiece]) -> None:
        """These are here now."""
        for begin in range(0, len(pieces), messages.PIECES_IN_MESSAGE):
            self._say(messages.pieces(self.peer_id, pieces[begin : begin + messages.PIECES_IN_MESSAGE]))

    def tell_failed(self, number: int, parent: HostId | None, reason: FailReason) -> None:
        """A piece did not come; ``parent`` None: from the source."""
        self._say(messages.failed(self.peer_id, number, parent, reason))

    def finish(self, outcome: Outcome, reason: str = "", status: int = 0) -> None:
        """The download ended by itself."""
        self._say(messages.finished(self.peer_id, outcome, reason, status))
        self._end(self)

    def leave(self) -> None:
        """Nobody wants it any more."""
        self._say(messages.left(self.peer_id))
        self._end(self)

    def _say(self, message: p2p_pb2.FromHost) -> None:
        if self._line is not None:
            self._line.send(message)
