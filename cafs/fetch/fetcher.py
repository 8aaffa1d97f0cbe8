"""Runs the range requests: starts them as slots come free, verifies, retries, fails over.

Owned by ``ChunkService``, which hands flights in (``submit``) and gets each one back through ``done``, with
its chunk or with the error for its readers. Each request is a task in the service's nursery, so that no
reader's cancellation ends another's fetch; a request is cancelled when nobody wants any of its chunks any
more.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import trio

from cafs.core.backoff import Answer, describe, final_error, plan_next, rounds
from cafs.core.chunk import Chunk
from cafs.core.distance import Distances
from cafs.core.source import BlobSource, ChunkAnswer, ChunkSource, read_spans
from cafs.errors import CafsError, DeadlineError, IntegrityError, ProtocolError, RemoteError
from cafs.fetch.flights import Flight, FlightQueue, Group, State
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.plain_cache import Plain
from cafs.fetch.stats import Counters
from cafs.fetch.verify import check_place, verify_frames
from cafs.fetch.write_behind import StoreWriter

log = logging.getLogger(__name__)

Done = Callable[[Flight, Plain | None, CafsError | None], None]

INLINE_BYTES = 96 << 10
"""So many plain bytes are verified in the trio thread: 60 us, about what going to a worker thread costs."""
MAX_ANSWERS_KEPT = 64
"""For one flight; the oldest are forgotten."""
FILL_SECONDS = 0.2
"""A fill request should take about this long, so that it never keeps a slow link from readers for longer."""
SLOWEST_BYTES_PER_S = 64 << 10


class Fetcher:
    """Range requests of one service."""

    def __init__(
        self,
        limits: FetchLimits,
        nursery: trio.Nursery,
        writer: StoreWriter,
        counters: Counters,
        *,
        done: Done,
        rng: random.Random,
    ) -> None:
        self._limits = limits
        self._nursery = nursery
        self._writer = writer
        self._counters = counters
        self._done = done
        self._rng = rng
        self._distances = Distances()
        self._queue = FlightQueue(limits, self._distances)
        self._active = [0] * len(Priority)
        self._by_source: Counter[str] = Counter()
        self._threads = trio.CapacityLimiter(4)
        self._fill_bytes = limits.fill_range_bytes // 4

    def distance(self, source: BlobSource) -> float:
        """See ``cafs.core.distance``."""
        return self._distances.of(source.name)

    def submit(self, flights: Iterable[Flight]) -> None:
        """Fetch these; ``done`` will be called for each."""
        for flight in flights:
            self._enqueue(flight)
        self._start_requests()

    def hasten(self, flight: Flight, priority: Priority) -> None:
        """Somebody more urgent joined the flight: one that rests is tried again at once."""
        if priority < flight.priority:
            self._queue.hasten(flight, priority)
            if flight.state is State.RESTING:
                self._enqueue(flight)
            self._start_requests()

    def abandon(self, flight: Flight) -> None:
        """The flight's last waiter has left."""
        if flight.state is State.QUEUED:
            self._queue.remove(flight)
            self._drop(flight)
        elif flight.state is State.RESTING:  # whoever wants it next shall not wait out this rest
            self._drop(flight)
        elif flight.group is not None and not flight.group.wanted():
            flight.group.scope.cancel()

    def _enqueue(self, flight: Flight) -> None:
        if not flight.waiters and not flight.rides:
            self._drop(flight)
        elif not flight.origin.sources:
            self._done(flight, None, RemoteError(f"{flight.what}: there is no source to fetch it from"))
        else:
            try:
                check_place(flight.ref, flight.origin.blob)
            except IntegrityError as e:
                self._done(flight, None, e)
            else:
                self._queue.add(flight)

    def _drop(self, flight: Flight) -> None:
        self._done(flight, None, RemoteError(f"{flight.what}: nobody waits for it any more"))

    def _start_requests(self) -> None:
        while (group := self._queue.take(self._active, self._by_source, self._fill_bytes)) is not None:
            for flight in group.flights:
                flight.rides = False
            if not group.wanted():  # riders that missed their request
                for flight in group.flights:
                    self._drop(flight)
                continue
            self._active[group.priority] += 1
            self._by_source[group.source.name] += 1
            self._nursery.start_soon(self._run, group)

    async def _run(self, group: Group) -> None:
        with group.scope:
            try:
                await self._ask_and_verify(group)
            except Exception as e:  # a defect of one source is a failed answer, never a dead mount
                log.exception("a range request failed in an unforeseen way")
                self._failed(_unfinished(group), group.source_number, RemoteError(f"unforeseen: {e!r}"))
        self._active[group.priority] -= 1
        self._by_source[group.source.name] -= 1
        self._by_source += Counter()  # those that are asked for nothing go
        # Left over only if the request was cancelled, and then somebody may have joined since.
        self.submit(_unfinished(group))

    async def _ask_and_verify(self, group: Group) -> None:
        source = group.source
        began = trio.current_time()
        try:
            answer = await self._ask(group)
        except CafsError as e:
            self._failed(group.flights, group.source_number, e)
            return
        took_s = trio.current_time() - began
        self._counters.note_answer(source.name, group.priority, group.length, took_s)
        if not (isinstance(source, ChunkSource) and source.is_aided):
            self._distances.note(source.name, took_s)
        self._adapt(group, took_s)
        self._note_stored([flight for flight in group.flights if flight.ref.digest in answer.stored])
        arrived: list[Chunk] = []
        for flight, chunk in await self._verify(group, answer):
            if isinstance(chunk, Chunk):
                if chunk.digest not in answer.kept:
                    arrived.append(chunk)
                self._counters.note_chunk(flight.origin.layer, flight.ref.frame_bytes)
                self._done(flight, chunk.plain, None)
            else:
                self._failed([flight], group.source_number, chunk)
        if group.priority is Priority.FILL:
            # Stored before the request's slot is given back: a fill goes no faster than the disk takes it.
            await self._store(arrived)
        else:
            self._writer.offer(arrived)
            if group.priority is not Priority.DEMAND:
                await self._writer.room()

    def _note_stored(self, flights: Sequence[Flight]) -> None:
        """End flights whose chunks the store has without us; a reader who has joined needs the bytes yet."""
        for flight in flights:
            self._counters.note_chunk(flight.origin.layer, flight.ref.frame_bytes)
            if flight.priority is Priority.FILL:
                self._done(flight, None, None)
        self.submit([flight for flight in flights if not flight.done])

    async def _ask(self, group: Group) -> ChunkAnswer:
        """One request."""
        timeout_s = self._limits.answer_timeout_s + group.length / SLOWEST_BYTES_PER_S
        try:
            with trio.fail_after(timeout_s):
                answer = await _ask_source(group)
        except trio.TooSlowError:
            raise DeadlineError(f"no answer within {timeout_s:.0f} s") from None
        for run, body in zip(group.runs, answer.bodies, strict=True):
            if len(body) != run.span.length:
                raise ProtocolError(f"answered {len(body)} bytes where {run.span.length} were asked for")
        return answer

    async def _verify(self, group: Group, answer: ChunkAnswer) -> list[tuple[Flight, Chunk | IntegrityError]]:
        sent = [flight for flight in group.flights if flight.ref.digest not in answer.stored]
        if sum(flight.ref.plain_bytes for flight in sent) <= INLINE_BYTES:
            return _verify_runs(group, answer)
        return await trio.to_thread.run_sync(_verify_runs, group, answer, limiter=self._threads)

    async def _store(self, chunks: Sequence[Chunk]) -> None:
        if self._writer.usable and chunks:
            await trio.to_thread.run_sync(self._writer.put_now, chunks, limiter=self._threads)

    def _failed(self, flights: Sequence[Flight], source_number: int, error: CafsError) -> None:
        """Decide for each flight whom to ask next and when, or that it has failed."""
        self._counters.failed_answers += 1
        jitter, rests = self._rng.random(), defaultdict[float, list[Flight]](list)
        for flight in flights:
            name = flight.origin.sources[source_number].name
            del flight.answers[: -MAX_ANSWERS_KEPT + 1]
            flight.answers.append(Answer(source_number, name, error, time.time()))
            ask = plan_next(flight.answers, len(flight.origin.sources), jitter=jitter)
            too_often = (
                flight.priority is not Priority.DEMAND and rounds(flight.answers) > self._limits.retries
            )
            if ask is None or too_often:
                self._done(flight, None, final_error(flight.answers, flight.what))
            else:
                flight.next_source, flight.state = ask.source, State.RESTING
                flight.group = None
                rests[ask.wait_s].append(flight)
        for wait_s, resting in rests.items():
            if wait_s:
                self._nursery.start_soon(self._rest, resting, wait_s)
            else:
                self.submit(resting)

    async def _rest(self, flights: list[Flight], wait_s: float) -> None:
        await trio.sleep(wait_s)
        self.submit([flight for flight in flights if flight.state is State.RESTING])

    def _adapt(self, group: Group, took_s: float) -> None:
        """Fit the length of fill requests to the speed of the link."""
        if group.priority is Priority.FILL and took_s > 0:
            fitting = int(group.length / took_s * FILL_SECONDS)
            self._fill_bytes = min(max(fitting, 512 << 10), self._limits.fill_range_bytes)


async def _ask_source(group: Group) -> ChunkAnswer:
    """Say which chunks are wanted to a source that wants to know; after a failure the plain way is taken."""
    source, blob = group.source, group.origin.blob
    spans = [run.span for run in group.runs]
    if isinstance(source, ChunkSource) and not any(flight.answers for flight in group.flights):
        return await source.read_chunks(blob, spans, [flight.ref for flight in group.flights], group.priority)
    return ChunkAnswer(await read_spans(source, blob, spans))


def _verify_runs(group: Group, answer: ChunkAnswer) -> list[tuple[Flight, Chunk | IntegrityError]]:
    """What came for each flight of the chunks that were sent."""
    verified: list[tuple[Flight, Chunk | IntegrityError]] = []
    for run, body in zip(group.runs, answer.bodies, strict=True):
        sent = [flight for flight in run.flights if flight.ref.digest not in answer.stored]
        verified += zip(sent, verify_frames(body, run.span.offset, [f.ref for f in sent]), strict=True)
    return verified


def _unfinished(group: Group) -> list[Flight]:
    return [flight for flight in group.flights if flight.state is State.FETCHING and flight.group is group]


def explain_lateness(flight: Flight, waited_s: float) -> str:
    """The message for a reader whose deadline has passed."""
    late = f"{flight.what} did not come within {waited_s:.1f} s"
    if flight.answers:
        return describe(flight.answers, late)
    asked = flight.origin.sources[flight.next_source].name if flight.origin.sources else "its source"
    return f"{late}: {asked} has not answered yet"
