"""Chunks from the registry, each once at a time: what this host does for the whole swarm.

A chunk under way has a ``_Flight``; whoever wants it, from this host or another, joins it. First those are
asked who were responsible before this host came (they may have it), then neighbouring chunks are read in one
range. What is asked here with ``may_fetch=False`` by others joins only what is being read from the registry:
two hosts that ask each other never wait for each other.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from cafs.core.chunk import Chunk, ChunkRef
from cafs.core.readplan import coalesce
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.core.tracing import UNTRACED, Tracer
from cafs.errors import AuthError, CafsError, DeadlineError
from cafs.http11.certificates import Complaints
from cafs.oci.reference import RegistryReference, parse_reference
from cafs.oci.repositories import Repositories
from cafs.p2p.chunk_verify import Form, MisdescribedError, form_of, form_of_chunk, verify_some
from cafs.p2p.live_limits import Throttle
from cafs.p2p.recent_frames import RecentFrames
from cafs.p2p.urgency_gate import UrgencyGate, Urgent

log = logging.getLogger(__name__)

MAX_RANGE_BYTES, MAX_GAP_BYTES = 2 << 20, 16 << 10
REFUSED_S = 60.0
"""A repository that refused our credentials is not asked again for so long."""
_TRIES = 3
"""Of a chunk, with whatever others that want it say of it."""
_ANSWER_S, _SLOWEST_BYTES_PER_S = 20.0, 64 << 10

Ask = Callable[[Sequence[ChunkRef]], Awaitable[Sequence[ChunkRef]]]
"""Gives those that it could not bring; the others were delivered."""


class _Flight:
    """One chunk that is to come from the registry."""

    __slots__ = ("chunk", "done", "of", "reading", "work")

    def __init__(self, of: tuple[BlobRef, ChunkRef], work: Urgent) -> None:
        self.of = of
        """As it was described by whoever wanted it first: another host may lie."""
        self.work = work
        self.reading = False
        """The registry is being asked."""
        self.chunk: Chunk | None = None
        self.done = trio.Event()


class ChunkOrigin:
    """See the module. What it starts runs in the owner's nursery."""

    def __init__(
        self,
        nursery: trio.Nursery,
        repositories: Repositories,
        source: Throttle,
        *,
        concurrency: int,
        recent: RecentFrames,
        deliver: Callable[[BlobRef, Sequence[Chunk], Urgent], Awaitable[None]],
        tracer: Tracer = UNTRACED,
    ) -> None:
        """
        Args:
            nursery: For requests: they outlive whoever asked first.
            repositories: The way to registries.
            source: The rate at which they may send.
            concurrency: Requests at once.
            recent: What came last, from wherever: who has looked for a chunk before it came, and asks for it
                after, is not to have it read again.
            deliver: Told of what came; may wait, to slow down what nobody waits for.
            tracer: Hears of requests.
        """
        self._tracer = tracer
        self._nursery = nursery
        self._repositories = repositories
        self._source = source
        self._gate = UrgencyGate(concurrency)
        self._threads = trio.CapacityLimiter(2)
        self._recent = recent
        self._deliver = deliver
        self._flights: dict[Form, _Flight] = {}
        self._refused: dict[str, float] = {}
        self._complaints = Complaints()
        self.requests = 0
        self.failures = 0

    async def fetch(
        self, wish: ChunkWish, refs: Sequence[ChunkRef], elders: Ask | None, readers: int = 1
    ) -> list[Chunk | None]:
        """These chunks; None for those that cannot be had.

        Args:
            wish: What they are part of.
            refs: The chunks.
            elders: Asks those who may have them already.
            readers: Hosts that read this blob from the registry, each its part. They share its link: what
                nobody waits for comes in few requests of each, so that what others wait for comes soon.
        """
        found: dict[ChunkRef, Chunk | None] = dict.fromkeys(refs)
        left = list(found)
        for _ in range(_TRIES):
            flights = self._board(wish, left, elders, readers)
            found.update(zip(left, await _arrival(flights), strict=True))
            # What somebody else described in another way, and did not come, is tried as it is described here.
            left = [
                ref
                for ref, flight in zip(left, flights, strict=True)
                if flight.chunk is None and flight.of != (wish.blob, ref)
            ]
            if not left:
                break
        return [found[ref] for ref in refs]

    def _board(
        self, wish: ChunkWish, refs: Sequence[ChunkRef], elders: Ask | None, readers: int
    ) -> list[_Flight]:
        work = Urgent(wish.urgency)
        fresh: dict[ChunkRef, _Flight] = {}
        joined: list[_Flight] = []
        for ref in refs:
            flight = self._landed(wish, ref) or self._flights.get(form_of(ref))
            if flight is None:
                fresh[ref] = flight = self._flights[form_of(ref)] = _Flight((wish.blob, ref), work)
            else:
                flight.work.hasten(wish.urgency)
            joined.append(flight)
        if fresh:
            self._nursery.start_soon(self._run, wish, fresh, elders, work, readers)
        return joined

    def _landed(self, wish: ChunkWish, ref: ChunkRef) -> _Flight | None:
        chunk = self._recent.chunk(ref)
        if chunk is None:
            return None
        flight = _Flight((wish.blob, ref), Urgent(0))
        flight.chunk = chunk
        flight.done.set()
        return flight

    async def join(self, refs: Sequence[ChunkRef], urgency: int) -> list[Chunk | None]:
        """Those of the chunks that the registry is being asked for; None for the others."""
        found: list[Chunk | None] = [None] * len(refs)
        flights = [self._flights.get(form_of(ref)) for ref in refs]
        for place, flight in enumerate(flights):
            if flight is not None and flight.reading:
                flight.work.hasten(urgency)
                await flight.done.wait()
                found[place] = flight.chunk
        return found

    def arrived(self, chunk: Chunk) -> None:
        """It came, from wherever."""
        flight = self._flights.pop(form_of_chunk(chunk), None)
        if flight is not None:
            flight.chunk = chunk
            flight.done.set()

    async def _run(
        self,
        wish: ChunkWish,
        mine: Mapping[ChunkRef, _Flight],
        elders: Ask | None,
        work: Urgent,
        readers: int,
    ) -> None:
        try:
            left = list(mine) if elders is None else await elders(list(mine))
            if left and self._may_ask(wish.repository):
                still = {ref: mine[ref] for ref in left if not mine[ref].done.is_set()}
                await self._read_all(wish, still, work, readers)
        except CafsError as e:
            self.failures += 1
            log.info("no chunks of %s from its registry: %s", wish.blob.digest, e)
        except Exception:
            log.exception("fetching chunks failed in an unforeseen way")
        finally:
            for ref, flight in mine.items():
                if self._flights.get(form_of(ref)) is flight:  # else it came, and may be wanted anew
                    del self._flights[form_of(ref)]
                flight.done.set()

    def _may_ask(self, repository: str) -> bool:
        return self._refused.get(repository, 0.0) <= trio.current_time()

    async def _read_all(
        self, wish: ChunkWish, mine: Mapping[ChunkRef, _Flight], work: Urgent, readers: int
    ) -> None:
        for flight in mine.values():
            flight.reading = True
        refs = list(mine)
        ranges = coalesce(
            [(ref.offset, ref.frame_bytes) for ref in refs],
            max_bytes=MAX_RANGE_BYTES,
            max_gap_bytes=MAX_GAP_BYTES,
        )
        for run in ranges:
            async with self._gate.enter(work, readers):
                body = await self._read(wish, run.offset, run.length)
            await self._take(wish, run.offset, body, [refs[n] for n in run.members], work)

    async def _read(self, wish: ChunkWish, offset: int, length: int) -> memoryview:
        repository = self._repositories.get(parse_repository(wish.repository))
        span = self._tracer.span(
            "cafs.registry", registry=repository.name, blob=wish.blob.digest, first=offset, bytes=length
        )
        self.requests += 1
        await self._source.spend(length)
        try:
            with span, trio.fail_after(_ANSWER_S + length / _SLOWEST_BYTES_PER_S):
                return memoryview(await repository.read_range(wish.blob, offset, length))
        except trio.TooSlowError:
            raise DeadlineError(f"{repository.name} does not answer") from None
        except AuthError:
            self._refused[wish.repository] = trio.current_time() + REFUSED_S
            raise

    async def _take(
        self, wish: ChunkWish, offset: int, body: memoryview, refs: Sequence[ChunkRef], work: Urgent
    ) -> None:
        cut = [(ref, body[ref.offset - offset : ref.offset - offset + ref.frame_bytes]) for ref in refs]
        results = await verify_some(cut, self._threads)
        chunks = [chunk for chunk in results if isinstance(chunk, Chunk)]
        if not all(isinstance(result, Chunk | MisdescribedError) for result in results):
            # Or a host wished for what lies elsewhere: its wishes are no reason to fill the log.
            is_due = self._complaints.is_due(wish.repository, trio.current_time())
            level = logging.WARNING if is_due else logging.DEBUG
            log.log(level, "%s sent wrong bytes of %s", wish.repository, wish.blob.digest)
        for chunk in chunks:
            self.arrived(chunk)
        await self._deliver(wish.blob, chunks, work)


async def _arrival(flights: Sequence[_Flight]) -> list[Chunk | None]:
    for flight in flights:
        await flight.done.wait()
    return [flight.chunk for flight in flights]


def parse_repository(text: str) -> RegistryReference:
    """``HOST[:PORT]/REPOSITORY``, as in a wish.

    Raises:
        UsageError: it is none.
    """
    reference = parse_reference(f"docker://{text}:latest")
    assert isinstance(reference, RegistryReference)
    return reference
