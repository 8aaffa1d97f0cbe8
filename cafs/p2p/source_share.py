"""A download's share in reading from the origin: how much at once, and what follows from failures.

Asks nobody whether it may: see ``Download``. Failures are counted once for all that fails together, and
pauses grow between tries; whatever comes makes them forgotten. An origin that failed others before is waited
for once, and not five times as long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.messages import FailReason, FinishedPiece
from cafs.errors import CafsError, RemoteError, StorageError
from cafs.p2p.content import OriginError
from cafs.p2p.download_pace import DownloadPace
from cafs.p2p.means import Means
from cafs.p2p.reports import Reports
from cafs.p2p.source import ChangedError, LeftAloneError
from cafs.p2p.source_runs import Origin, SourceRuns, is_lasting
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.swarm_session import Session
from cafs.p2p.task_files import NewPiece

TRIES = 5
PAUSE_S = 0.5
PATIENCE_S = 7.5
"""What the pauses between so many tries are in all."""
PIECES, BYTES = 4, 32 << 20
"""Being read from the origin at once; fewer where several hosts read: others have the first the sooner."""
SHARED_PIECES = 8
"""By all hosts that read there, but two by each."""


class SourceShare:
    """Of one download."""

    def __init__(
        self,
        means: Means,
        task: StoredTask,
        origin: Origin,
        session: Session,
        *,
        reports: Reports,
        pace: DownloadPace,
        nursery: trio.Nursery,
        poke: Callable[[], None],
    ) -> None:
        self._means = means
        self._task = task
        self._session = session
        self._reports = reports
        self._nursery = nursery
        self._poke = poke
        self._runs = SourceRuns(
            means.sources,
            task,
            origin,
            tell_meta=session.tell_meta,
            keep=self._keep,
            reads=self._announce,
            spend=pace.spend_from_source,
        )
        self._failures = 0
        self._failing_since = 0.0
        self._left_alone = False
        """One of these failures was that others had seen the origin fail, so that it was not even asked."""
        self._again_at = 0.0
        self._error: CafsError | None = None
        self._beginning = False
        self._under_way = Bitmap()
        self.disk_error: StorageError | None = None

    def use(self, origin: Origin) -> None:
        """Another wish came, whose credentials are newer."""
        self._runs.use(origin)

    @property
    def under_way(self) -> int:
        """Bitmap of pieces that are being read, or will be in a moment."""
        return self._under_way.bits | self._runs.reading.bits

    @property
    def streams_all(self) -> bool:
        """One request is bringing all of it, from the beginning on."""
        return self._runs.streams and self._runs.running > 0

    def hopeless(self) -> CafsError | None:
        """Why the origin will not be asked again: it said no, or failed too often."""
        error = self._error
        return error if error is not None and (is_lasting(error) or self._failures >= TRIES) else None

    def why(self, told: CafsError) -> CafsError:
        """What keeps all from the content, of which a scheduler knows ``told``: best the origin's answer."""
        own = self._error
        return told if own is None or (_is_answer(told) and not _is_answer(own)) else own

    def room(self, now: float, others: int) -> int:
        """How many more pieces may be begun with, while so many other hosts read there, too."""
        layout = self._task.layout
        if layout is None or now < self._again_at or self.hopeless() is not None:
            return 0
        if self._runs.streams:
            return 0 if self._runs.running else 1
        most = max(2, min(PIECES, SHARED_PIECES // (others + 1), BYTES // layout.piece_bytes))
        return max(0, most - len(self._under_way))

    def begin(self, at_byte: int, now: float) -> None:
        """Learn what the content is like, unless that is under way, or its time has not come."""
        if not self._beginning and now >= self._again_at and self.hopeless() is None:
            self._beginning = True
            self._nursery.start_soon(self._begin, at_byte)

    async def _begin(self, at_byte: int) -> None:
        await self._read(lambda: self._runs.begin(at_byte))
        self._beginning = False
        self._poke()

    def begin_run(self, run: Sequence[int]) -> None:
        """Read pieces that follow each other."""
        for number in run:
            self._begin_piece(number)
        self._announce()
        self._nursery.start_soon(self._run, run)

    async def _run(self, run: Sequence[int]) -> None:
        try:
            await self._read(lambda: self._runs.run(run[0], len(run)))
        finally:
            for number in run:
                self._end_piece(number)
            self._announce()
        self._poke()

    def _announce(self) -> None:
        self._task.note_coming(self.under_way)

    def _begin_piece(self, number: int) -> None:
        self._under_way.add(number)
        self._means.flights.take(self._task.id, self._piece_bytes())

    def _end_piece(self, number: int) -> None:
        if number in self._under_way:
            self._under_way.discard(number)
            self._means.flights.give(self._task.id, self._piece_bytes())

    def _piece_bytes(self) -> int:
        layout = self._task.layout
        assert layout is not None
        return layout.piece_bytes

    async def _read(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except StorageError as e:
            self.disk_error = e
        except CafsError as e:
            self._note_failure(e)
        else:
            self._note_success()

    def _note_success(self) -> None:
        self._failures, self._left_alone, self._error = 0, False, None

    def _note_failure(self, error: CafsError) -> None:
        now = trio.current_time()
        if self._error is None or not isinstance(error, LeftAloneError):
            self._error = error  # what it said is worth more than that it was not asked
        if now < self._again_at:
            return  # of those that failed together with another
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        self._left_alone |= isinstance(error, LeftAloneError) and error.failing
        if self._left_alone and now - self._failing_since >= PATIENCE_S:
            self._failures = TRIES
        told_s = error.retry_after_s if isinstance(error, RemoteError) else None
        pause_s = PAUSE_S * 2.0 ** (self._failures - 1)
        self._again_at = now + max(told_s or 0.0, pause_s)
        self._session.tell_failed(0, None, FailReason.ORIGIN)

    async def _keep(self, number: int, piece: bytes | bytearray) -> None:
        [wrong] = await self._task.put_pieces([NewPiece(number, piece)])
        if wrong is not None:
            raise ChangedError("the origin's content is not what other hosts got from it")
        digest = self._task.digest(number)
        assert digest is not None
        self._note_success()
        self._means.note_piece(self._task.spec, len(piece), None)
        self._end_piece(number)
        self._reports.add(FinishedPiece(number, digest, None, 0))
        self._poke()


def _is_answer(error: CafsError) -> bool:
    return isinstance(error, OriginError)
