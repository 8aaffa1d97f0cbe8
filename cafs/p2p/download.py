"""One task coming to this host: asks parents and the origin until all that is wanted is here.

One task of trio owns the state of a download; requests run in its nursery and only note what came of them.
Nothing here waits for a reader: what is wanted is in ``Demand``s that come and go, and the download ends with
the last of them, or when all of them are served, or when it fails, with ``error`` set. What came stays.

What is decided where: ``picker`` says which piece to ask of whom, ``SwarmView`` whom not to ask, the
scheduler who goes to the source; without a scheduler, or when nothing moves, this host goes itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

import trio

from cafs.core.swarm.demand import Demand, rate_of, urgent, wanted
from cafs.core.swarm.layout import Bitmap, Layout
from cafs.core.swarm.messages import Outcome, SwarmEvent
from cafs.core.swarm.ownership import Turns
from cafs.core.swarm.picker import Ask, View, pick
from cafs.core.swarm.priorities import USUAL, policy_of
from cafs.core.swarm.self_help import SelfHelp
from cafs.errors import CafsError, IntegrityError, NotFoundError, StateError
from cafs.p2p.content import NotSharedError, OriginError
from cafs.p2p.download_pace import DownloadPace
from cafs.p2p.followers import Followers
from cafs.p2p.means import Means
from cafs.p2p.parent_client import ParentError
from cafs.p2p.piece_fetch import PieceFetch
from cafs.p2p.reports import Reports
from cafs.p2p.scheduler_word import SchedulerWord, SourceFailedError
from cafs.p2p.source_runs import Origin, is_lasting
from cafs.p2p.source_share import SourceShare
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.swarm_session import Session
from cafs.p2p.whole_digest import WholeDigest

log = logging.getLogger(__name__)

OTHERS_S = 1.0
"""For others at the source to say what the content is like, so that not everybody reads its beginning."""
LOOK_S = 0.25
"""How often a download that waits for others looks whether their time is over."""
MOST_PIECES = 16


class Download:
    """See the module."""

    def __init__(self, means: Means, task: StoredTask, origin: Origin, *, seeds: bool = False) -> None:
        """``seeds``: a scheduler wants it here, and will send us to the source as soon as we register."""
        self._means = means
        self._seeds = seeds
        self._first_origin = origin
        self.task = task
        self.error: CafsError | None = None
        self.ended = trio.Event()
        self.demands: dict[Demand, Origin | None] = {}
        """What is wanted, and where it may be had from with the credentials of whoever wants it."""
        self._left_served = False
        """The last who wanted something had all of it when they left, maybe before we looked."""
        self._inbox: list[SwarmEvent] = []
        self._poked = trio.Event()
        self._word = SchedulerWord(means.me, task, means.schedulers)
        self._began = trio.current_time()
        self._self_help = SelfHelp(self._began)
        self._asking_meta = False
        self._waiting: dict[int, float] = {}
        self._turns, self._source_turns = Turns(), Turns()
        self._whole_is_right: bool | None = None if task.spec.digest and not task.whole else True
        self._pace = DownloadPace(means.limits, task.id)
        self._parts: _Parts | None = None

    # For readers

    def add(self, demand: Demand, origin: Origin | None = None) -> None:
        """Somebody wants this; ``origin`` None: somebody who cannot go to the source."""
        self.demands[demand] = origin
        if self._parts is not None:
            self._parts.session.want(whole=demand.is_whole(), priority=demand.priority)
            self._note_demands(self._parts)
        self.poke()

    def remove(self, demand: Demand) -> None:
        """Nobody wants it any more."""
        self._left_served = self._is_served()
        self.demands.pop(demand, None)
        if self._parts is not None:
            self._note_demands(self._parts)
        self.poke()

    @property
    def priority(self) -> int:
        """Of the most urgent wish."""
        return max((demand.priority for demand in self.demands), default=USUAL)

    def _note_demands(self, parts: _Parts) -> None:
        """The newest credentials are used of those whose owners still wait; others ask for pieces only."""
        if self.demands:
            self._means.flights.priorities[self.task.id] = self.priority
        else:
            self._means.flights.priorities.pop(self.task.id, None)
        ours = {demand: origin for demand, origin in self.demands.items() if origin is not None}
        if ours:
            parts.source.use(list(ours.values())[-1])
        self._pace.set_wanted(rate_of(ours))

    def poke(self) -> None:
        """Something has changed: think again."""
        self._poked.set()

    @property
    def at_source(self) -> bool:
        """It reads from the origin, and may be asked to bring pieces from there."""
        return self._parts is not None and self._may_go_to_source(self._parts, trio.current_time())

    @property
    def is_bad_content(self) -> bool:
        """It failed as its pieces together are not what they should be."""
        return isinstance(self.error, _WrongContentError)

    # The run

    async def run(self) -> None:
        """Download; never raises but for cancellation, see ``error``."""
        whole = any(demand.is_whole() for demand in self.demands)
        spec = replace(self.task.spec, priority=self.priority)
        session = self._means.schedulers.join(spec, self._hear, whole=whole)
        self._means.figures.begun += 1
        outcome, reason, status = Outcome.FAILED, "cancelled", 0
        try:
            with self.task.use():
                await self._run(session)
            outcome, reason = Outcome.SUCCEEDED, ""
        except OriginError as e:
            self.error, reason, status = e, str(e), e.status
        except CafsError as e:
            self.error, reason = e, str(e)
            if isinstance(e, NotSharedError):
                status = HTTPStatus.FORBIDDEN  # for this host: others are not spared asking for themselves
            if isinstance(e, _WrongContentError):
                outcome = Outcome.BAD_CONTENT
        except Exception as e:
            log.exception("the download of task %s failed in an unforeseen way", self.task.id)
            self._means.figures.unforeseen += 1
            self.error = StateError("the peer failed at this download: its log says how")
            reason = type(e).__name__
        finally:
            self._end(session, outcome, reason, status)

    def _end(self, session: Session, outcome: Outcome, reason: str, status: int) -> None:
        figures = self._means.figures
        self._means.flights.priorities.pop(self.task.id, None)
        figures.succeeded += outcome is Outcome.SUCCEEDED
        figures.failed += outcome is not Outcome.SUCCEEDED
        ended = {"downloads_succeeded" if outcome is Outcome.SUCCEEDED else "downloads_failed": 1}
        self._means.shares.note(self.task.id, self.task.spec.application, **ended)
        if outcome is Outcome.SUCCEEDED and not (self._is_served() if self.demands else self._left_served):
            session.leave()
        else:
            session.finish(outcome, reason, status)
        self.ended.set()

    async def _run(self, session: Session) -> None:
        failure: CafsError | None = None
        async with trio.open_nursery() as nursery:
            parts = self._parts = self._make_parts(session, nursery)
            self._note_demands(parts)
            nursery.start_soon(parts.reports.run)
            if self._whole_is_right is None:
                nursery.start_soon(self._verify_whole)
            while self.demands and not self._is_served():
                self._poked = trio.Event()
                try:
                    self._step(parts, trio.current_time())
                except CafsError as e:
                    failure = e
                    break
                with trio.move_on_after(LOOK_S):
                    await self._poked.wait()
            parts.reports.flush()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _make_parts(self, session: Session, nursery: trio.Nursery) -> _Parts:
        means, task, word = self._means, self.task, self._word
        reports = Reports(session)
        return _Parts(
            session,
            nursery,
            reports,
            PieceFetch(
                means,
                task,
                view=word.view,
                proofs=word.proofs,
                session=session,
                reports=reports,
                pace=self._pace,
                poke=self.poke,
            ),
            SourceShare(
                means,
                task,
                self._first_origin,
                session,
                reports=reports,
                pace=self._pace,
                nursery=nursery,
                poke=self.poke,
            ),
            Followers(means.parents, task.id, word.view, nursery, self.poke),
        )

    def _is_served(self) -> bool:
        """All that is wanted is here, and right."""
        layout = self.task.layout
        if layout is None or layout.count is None:
            return False
        if not self.task.complete:
            return not wanted(self.demands, layout).bits & ~self.task.have.bits
        if self._whole_is_right and not self.task.whole:
            self.task.mark_whole()
        return bool(self._whole_is_right)

    def _step(self, parts: _Parts, now: float) -> None:
        """Look at what has changed, and begin what follows.

        Raises:
            CafsError: it is over.
        """
        inbox, self._inbox = self._inbox, []
        for event in inbox:
            try:
                self._word.apply(event, parts.session, now)
            except SourceFailedError as e:
                raise parts.source.why(e.told) from None
        if (broken := parts.fetch.error or parts.source.disk_error) is not None:
            raise broken
        if self.task.forgotten:
            raise StateError("the content was deleted while it was being downloaded")
        if self._whole_is_right is False:
            raise _WrongContentError(f"the content does not have the digest {self.task.spec.digest}")
        excused = self._word.sent_to_source or self._pace.waits
        self._self_help.note(now, parts.fetch.given, excused=excused)
        alone = self._word.look(parts.session, now)
        self._give_up_if_hopeless(parts, now)
        to_source = self._may_go_to_source(parts, now)
        if (layout := self.task.layout) is not None:
            self._ask_for_pieces(parts, layout, now, to_source=to_source)
            if layout.count is None or self._missing(parts, layout, to_source=to_source).bits:
                parts.followers.update()  # who has asked for all that is wanted need not hear who gets it
        elif to_source or self._seeds:
            self._begin_at_source(parts, now)
        elif alone and not self._asking_meta:
            self._asking_meta = True
            parts.nursery.start_soon(self._ask_members_for_meta)

    def _hear(self, event: SwarmEvent) -> None:
        self._inbox.append(event)
        self.poke()

    # Whether to go to the source

    def _may_go_to_source(self, parts: _Parts, now: float) -> bool:
        if self._word.sent_to_source:
            return True
        if not policy_of(self.priority).peers:
            return False
        alone = self._word.is_alone(parts.session, now)
        can_be_helped = self._word.view.can_help(self._all_missing(), now)
        return self._self_help.is_due(now, alone=alone, can_be_helped=can_be_helped)

    def _all_missing(self) -> Bitmap:
        layout = self.task.layout
        known = layout.count if layout is not None and layout.count is not None else 1
        return Bitmap(~self.task.have.bits & ((1 << known) - 1))

    def _give_up_if_hopeless(self, parts: _Parts, now: float) -> None:
        """The origin fails us, and nobody else can help.

        Others who were sent there are no help when it said no: they hear the same, and would wait for us.
        """
        error, view = parts.source.hopeless(), self._word.view
        refused = error is not None and is_lasting(error)
        if view.holds_more(self.task.have, now) if refused else view.can_help(self._all_missing(), now):
            return
        if error is not None:
            raise error
        if self._word.is_alone(parts.session, now) and not policy_of(self.priority).peers:
            raise NotFoundError("no host is known to have it, and none may fetch it from its origin")

    def _begin_at_source(self, parts: _Parts, now: float) -> None:
        others = any(known.member.at_source for known in self._word.view.members.values())
        if not others or now > self._began + OTHERS_S:
            parts.source.begin(min(demand.first_byte for demand in self.demands), now)

    # Asking

    async def _ask_members_for_meta(self) -> None:
        for known in list(self._word.view.members.values()):
            try:
                meta = await self._means.parents.fetch_meta(known.member.address, self.task.id)
            except ParentError:
                continue
            if self.task.layout is None:
                self.task.set_meta(meta)
            break
        self._asking_meta = False
        self.poke()

    def _ask_for_pieces(self, parts: _Parts, layout: Layout, now: float, *, to_source: bool) -> None:
        limits, flights = self._means.limits.now, self._means.flights
        room = min(
            MOST_PIECES,
            limits.task_concurrent_pieces - flights.of(self.task.id),
            flights.room(self.task.id, limits.concurrent_pieces, layout.piece_bytes),
        )
        missing = self._missing(parts, layout, to_source=to_source)
        if not missing.bits or room <= 0:
            return
        here = Bitmap(self.task.have.bits | parts.fetch.in_flight.bits)
        view = self._word.view
        plan = pick(
            View(
                self.task.id,
                self._means.me,
                missing,
                view.parents(now, layout.count),
                now,
                urgent=urgent(self.demands, layout, here),
                self_owner=view.self_owner,
                self_at_source=to_source,
                waiting=self._waiting,
                room=room,
                source_room=self._source_room(parts, now) if to_source else 0,
            ),
            self._turns,
            self._source_turns,
        )
        self._waiting = {number: self._waiting.get(number, now) for number in plan.waiting}
        _begin(parts, plan.asks)

    def _source_room(self, parts: _Parts, now: float) -> int:
        view = self._word.view
        return 0 if view.awaits(now) else parts.source.room(now, view.at_source())

    def _missing(self, parts: _Parts, layout: Layout, *, to_source: bool) -> Bitmap:
        """Wanted, not here, not under way."""
        here = self.task.have.bits | parts.fetch.in_flight.bits | parts.source.under_way
        if layout.count is not None:
            return Bitmap(wanted(self.demands, layout).bits & ~here)
        if to_source:
            return Bitmap(0 if parts.source.streams_all else 1)  # the stream brings all
        # The highest piece that somebody has may be a short one: its size is not known yet.
        held = 0
        for known in self._word.view.members.values():
            held |= known.have.bits
        return Bitmap(held & ((1 << max(0, held.bit_length() - 1)) - 1) & ~here)

    async def _verify_whole(self) -> None:
        assert self.task.spec.digest is not None
        self._whole_is_right = await WholeDigest(self.task, self.task.spec.digest).run()
        self.poke()


@dataclass(frozen=True, slots=True)
class _Parts:
    """Of a download that runs."""

    session: Session
    nursery: trio.Nursery
    reports: Reports
    fetch: PieceFetch
    source: SourceShare
    followers: Followers


def _begin(parts: _Parts, asks: Sequence[Ask]) -> None:
    """Ask; neighbours of the origin in one request."""
    run: list[int] = []
    for ask in asks:
        if ask.host is not None:
            parts.fetch.begin(parts.nursery, ask.number, ask.host)
        elif run and ask.number != run[-1] + 1:
            parts.source.begin_run(run)
            run = [ask.number]
        else:
            run.append(ask.number)
    if run:
        parts.source.begin_run(run)


class _WrongContentError(IntegrityError):
    """All pieces are as they should be, and the whole is not."""
