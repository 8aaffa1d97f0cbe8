"""Pieces of one download from its parents: asked for, proven, kept, and whoever failed is blamed.

A piece is kept when it hashes to what the notary says; it waits a moment for the notary's word. Without a
scheduler, or when it has no word in time, see ``Proofs``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from cafs.core.swarm.ids import HostId
from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.messages import FailReason, FinishedPiece, Member
from cafs.core.swarm.swarm_view import SwarmView
from cafs.errors import StorageError
from cafs.p2p.download_pace import DownloadPace
from cafs.p2p.means import Means
from cafs.p2p.parent_client import ParentError
from cafs.p2p.reports import Reports
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.swarm_session import Session
from cafs.p2p.task_files import NewPiece

PROOF_S = 5.0
"""For the notary to say what a piece must hash to."""


@dataclass(slots=True)
class Proofs:
    """What pieces must hash to."""

    task: StoredTask
    notarised: bool = True
    """A scheduler answers; else the parents' own word has to do, and the whole digest if there is one."""
    _changed: trio.Event = field(default_factory=trio.Event)

    def note_change(self) -> None:
        """Something was learned, or who is to be believed has changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def of(self, number: int, claimed: bytes) -> bytes | None:
        """The digest that counts; None: nobody can say."""
        with trio.move_on_after(PROOF_S):
            while True:
                if (known := self.task.digest(number)) is not None:
                    return known
                if not self.notarised:
                    return claimed
                await self._changed.wait()
        return None


class PieceFetch:
    """See the module."""

    def __init__(
        self,
        means: Means,
        task: StoredTask,
        *,
        view: SwarmView,
        proofs: Proofs,
        session: Session,
        reports: Reports,
        pace: DownloadPace,
        poke: Callable[[], None],
    ) -> None:
        self._means = means
        self._pace = pace
        self._task = task
        self._view = view
        self._proofs = proofs
        self._session = session
        self._reports = reports
        self._poke = poke
        self.in_flight = Bitmap()
        self.given = 0
        """Right pieces that parents gave."""
        self.error: StorageError | None = None
        """This host cannot keep what comes."""

    def begin(self, nursery: trio.Nursery, number: int, host: HostId) -> None:
        """Ask one parent for one piece; from now on it is under way."""
        known, layout = self._view.members.get(host), self._task.layout
        if known is None or layout is None:
            return
        self.in_flight.add(number)
        self._view.asked(host)
        self._means.flights.take(self._task.id, layout.size(number))
        nursery.start_soon(self._fetch, number, known.member, number not in known.have)

    async def _fetch(self, number: int, parent: Member, bring: bool) -> None:
        layout, host = self._task.layout, parent.host
        assert layout is not None
        size, parents = layout.size(number), self._means.parents
        try:
            async with self._pace.from_host(size):
                began = trio.current_time()
                data, claimed = await parents.fetch_piece(
                    parent.address, self._task.id, number, size, bring=bring
                )
            await self._keep(number, parent, data, claimed, began)
        except ParentError as e:
            self._blame(number, host, e.reason, e.retry_after_s or 0.0)
        except StorageError as e:
            self.error = e
        finally:
            self._means.flights.give(self._task.id, size)
            self.in_flight.discard(number)
            self._view.answered(host)
            self._poke()

    async def _keep(self, number: int, parent: Member, data: bytearray, claimed: bytes, began: float) -> None:
        host = parent.host
        cost_ms = int((trio.current_time() - began) * 1000)
        proof = await self._proofs.of(number, claimed)
        if proof is None:
            self._view.unproven.add(number)
            return
        [wrong] = await self._task.put_pieces([NewPiece(number, data, proof)])
        if wrong is not None:
            self._means.figures.wrong_pieces += 1
            self._means.shares.note(self._task.id, self._task.spec.application, pieces_wrong=1)
            self._blame(number, host, FailReason.CORRUPT)
            return
        self.given += 1
        self._means.note_piece(self._task.spec, len(data), parent)
        self._view.note_success(host, trio.current_time())
        self._reports.add(FinishedPiece(number, proof, host, cost_ms))

    def _blame(self, number: int, host: HostId, reason: FailReason, retry_after_s: float = 0.0) -> None:
        self._means.figures.failed_pieces += 1
        self._means.shares.note(self._task.id, self._task.spec.application, pieces_failed=1)
        self._view.note_failure(host, number, reason, trio.current_time(), retry_after_s)
        self._session.tell_failed(number, host, reason)
