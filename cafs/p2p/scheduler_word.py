"""What the scheduler says of one download, and what holds when it says nothing.

Events are applied by the download, in its own task. Says who may be asked (``view``), what pieces must hash
to (``proofs``), and whether this host was sent to the source; an end that the scheduler orders is raised.
"""

from __future__ import annotations

import logging

import trio

from cafs.core.swarm.ids import HostId
from cafs.core.swarm.messages import (
    Conflict,
    DigestsKnown,
    ForgetReason,
    Forgotten,
    MembersChanged,
    MetaKnown,
    Refused,
    SourceAllowed,
    SwarmEvent,
)
from cafs.core.swarm.swarm_view import SwarmView
from cafs.core.swarm.task import TaskMeta
from cafs.errors import BlockedError, CafsError, IntegrityError, NotFoundError, RemoteError, StateError
from cafs.p2p.content import OriginError
from cafs.p2p.piece_fetch import Proofs
from cafs.p2p.schedulers import Schedulers
from cafs.p2p.source import ChangedError
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.swarm_session import Session

log = logging.getLogger(__name__)

FIRST_WORD_S = 3.0
"""For a scheduler to say something of a new download, before it is done without."""


class SchedulerWord:
    """See the module."""

    def __init__(self, me: HostId, task: StoredTask, schedulers: Schedulers) -> None:
        self._me = me
        self._task = task
        self._schedulers = schedulers
        self._began = trio.current_time()
        self._heard = False
        self._refused = False
        self.view = SwarmView()
        self.proofs = Proofs(task)
        self.sent_to_source = False

    def is_alone(self, session: Session, now: float) -> bool:
        """No scheduler cares for this: none answers, or it never says a word, or it refused."""
        silent = not self._heard and now > self._began + FIRST_WORD_S
        return silent or self._refused or self._schedulers.is_lost(session)

    def look(self, session: Session, now: float) -> bool:
        """Whether this download is on its own; then the notary is not waited for."""
        alone = self.is_alone(session, now)
        if alone is self.proofs.notarised:
            self.proofs.notarised = not alone
            self.proofs.note_change()
        return alone

    def apply(self, event: SwarmEvent, session: Session, now: float) -> None:
        """Take it to heart.

        Raises:
            SourceFailedError: the download is over, as the origin fails all who were sent there.
            CafsError: the download is over, and why.
        """
        match event:
            case MembersChanged():
                self._heard = True
                self.view.apply(event, self._me, now)
                self.sent_to_source = event.self_at_source
            case DigestsKnown():
                self._learn_digests(event)
            case MetaKnown(meta=meta):
                self._learn_meta(meta)
            case SourceAllowed(allowed=allowed):
                self._heard = True
                self.sent_to_source = allowed
            case Refused():
                self._heed_refusal(event, session)
            case Conflict():
                raise ChangedError("the content at the origin is not what other hosts have")
            case Forgotten(why=why):
                if why is ForgetReason.QUARANTINED:
                    raise IntegrityError("the content is not what its digest says: no host keeps it")
                raise StateError("the content was deleted everywhere")
            case _:
                pass  # ``SchedulerLost``: seen where it matters, in ``is_alone``

    def _learn_digests(self, told: DigestsKnown) -> None:
        for number, digest in enumerate(told.digests, told.first):
            if digest is None:
                continue
            self.view.unproven.discard(number)
            if not self._task.learn_digest(number, digest):
                self._task.correct_digest(number, digest)
        self.proofs.note_change()

    def _learn_meta(self, meta: TaskMeta) -> None:
        try:
            self._task.set_meta(meta)
        except StateError as e:
            raise ChangedError(str(e)) from e

    def _heed_refusal(self, refused: Refused, session: Session) -> None:
        match refused.why:
            case "unknown_peer":
                session.register_anew()
            case "blocked":
                raise BlockedError("blocked: its priority is 0, or the cluster's configuration says so")
            case "quarantined":
                raise IntegrityError("the content was not what its digest says: try again later")
            case "no_source":
                raise NotFoundError("no host has it, and none may fetch it from its origin")
            case "source_failed":
                raise SourceFailedError(_as_said(refused))
            case _:
                log.info("task %s is not scheduled (%s): straight to its origin", self._task.id, refused.why)
                self._refused = True


class SourceFailedError(Exception):
    """Nobody gets it from its origin, the scheduler says; this host may have heard why itself."""

    def __init__(self, told: CafsError) -> None:
        super().__init__(str(told))
        self.told = told
        """What the scheduler knows of it."""


def _as_said(refused: Refused) -> CafsError:
    """What the origin told others, who were sent there for all."""
    message = refused.detail or "the origin fails"
    if refused.status:
        return OriginError(message, refused.status, (), b"")
    error = RemoteError(message)
    error.retry_after_s = refused.retry_after_s or None
    return error
