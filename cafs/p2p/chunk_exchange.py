"""Chunks of lazily mounted images, exchanged between the hosts that mount them.

``bring`` is for this host's mount servers, ``serve`` for other hosts. A chunk is looked for in the chunk
store, then among those under way, then in the swarm of its blob. The blob is divided into windows; each
window has an owner by rendezvous hash over the members, and only the owner reads it from the registry, with
its own credentials. An owner that is silent or has nothing is followed by the next in order; when that fails,
too, there is no answer, and the mount server reads from the registry itself. Every chunk is verified before
it is stored or passed on.

An async context manager; all requests run in its nursery and outlive whoever asked first: what comes is
wanted by others, or by the store.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Protocol, Self

import trio

from cafs.core.chunk import Chunk, ChunkRef
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.core.swarm.ids import HostId
from cafs.core.tracing import UNTRACED, Tracer
from cafs.errors import CafsError, StateError, StorageError, UnavailableError
from cafs.fetch.write_behind import StoreWriter
from cafs.oci.repositories import IDLE_S, Repositories
from cafs.p2p.chunk_figures import ChunkFigures
from cafs.p2p.chunk_origin import ChunkOrigin
from cafs.p2p.chunk_peers import WRONG_S, ChunkPeers
from cafs.p2p.chunk_verify import Form, Frame, MisdescribedError, form_of, form_of_chunk, verify_some
from cafs.p2p.live_limits import Throttle
from cafs.p2p.membership import ChunkMember, ChunkSwarm
from cafs.p2p.recent_frames import RecentFrames
from cafs.p2p.shared_blobs import SharedBlob, SharedBlobs
from cafs.p2p.urgency_gate import UrgencyGate, Urgent
from cafs.store.chunk_store import ChunkStore

log = logging.getLogger(__name__)

WINDOW_BYTES = 1 << 20
"""Of a blob, with one owner: neighbouring chunks are wanted together and cost one request together."""
PATIENCE_S = (1.5, 3.0, 5.0, 10.0)
"""For an owner to begin to answer, by urgency: it may have to ask a slow registry."""
OWNERS_ASKED = 2
"""Then the mount server is told to help itself: it has waited long enough."""
ELDERS_ASKED = 2
"""Who owned a window before the last hosts came, and so may have it."""
YOUNG_ELDERS = 8
"""Of a swarm that is young, see ``SharedBlob``."""
BUSY_S, BUSY_TIMES = 0.5, 4
"""What nobody waits for is asked again of an owner that is busy."""
WRITE_BEHIND_BYTES, RECENT_BYTES = 16 << 20, 8 << 20
FEW = 4
"""Chunks that are looked up in the trio thread: that takes a tenth of the way to a worker thread and back."""
_FILL = 3
_TRIES = 3
_ASKED_AT_ONCE = 16
_FILLED_AT_ONCE = 16
"""Windows that nobody waits for."""


class Account(Protocol):
    """What somebody else decides and counts."""

    def check(self, wish: ChunkWish) -> None:
        """Called for each wish of this host.

        Raises:
            StateError: these chunks are not exchanged here.
        """
        ...

    def note(self, blob: BlobRef, count: int, member: ChunkMember | None) -> None:
        """So many bytes of a blob's frames came, verified: from a member, or (None) from the registry."""
        ...


class _Flight:
    """One chunk that this host's readers want."""

    __slots__ = ("done", "frame", "of", "work")

    def __init__(self, of: tuple[BlobRef, ChunkRef], work: Urgent) -> None:
        self.of = of
        """As it was described by whoever wanted it first, who may be wrong."""
        self.work = work
        self.frame: Frame | None = None
        self.done = trio.Event()


class ChunkExchange:
    """See the module."""

    def __init__(
        self,
        store: ChunkStore | None,
        repositories: Repositories,
        shared: SharedBlobs,
        peers: ChunkPeers,
        source: Throttle,
        *,
        account: Account,
        concurrency: int,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """
        Args:
            store: The node's chunk store; None: nothing is kept.
            repositories: The way to registries, with this host's credentials.
            shared: The blobs of which others may have chunks of us, and who else shares them.
            peers: The way to them.
            source: The rate at which registries may send.
            account: See there.
            concurrency: Requests to registries at once.
            tracer: Hears of chunks that are brought, and of reads from registries.
        """
        self._tracer = tracer
        self._store = store
        self._repositories = repositories
        self._shared = shared
        self._membership = shared.membership
        self._peers = peers
        self._source = source
        self._account = account
        self._concurrency = concurrency
        self._writer = StoreWriter(store, WRITE_BEHIND_BYTES)
        self._threads = trio.CapacityLimiter(4)
        self._asking, self._asking_elders = UrgencyGate(_ASKED_AT_ONCE), UrgencyGate(_ASKED_AT_ONCE)
        self._filling = UrgencyGate(_FILLED_AT_ONCE)
        self._flights: dict[Form, _Flight] = {}
        self._tasks = AsyncExitStack()
        self._nursery: trio.Nursery
        self._origin: ChunkOrigin
        self._recent = RecentFrames(RECENT_BYTES)
        self.figures = ChunkFigures()

    async def __aenter__(self) -> Self:
        self._nursery = await self._tasks.enter_async_context(trio.open_nursery())
        self._origin = ChunkOrigin(
            self._nursery,
            self._repositories,
            self._source,
            concurrency=self._concurrency,
            recent=self._recent,
            deliver=self._keep_from_source,
            tracer=self._tracer,
        )
        self._nursery.start_soon(self._writer.run, trio.CapacityLimiter(1))
        self._nursery.start_soon(self._shared.run)
        self._nursery.start_soon(self._let_connections_go)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nursery.cancel_scope.cancel()
        self._peers.close()
        await self._tasks.aclose()

    @property
    def keeps(self) -> bool:
        """What is brought is also stored."""
        return self._writer.usable

    # For this host

    async def bring(self, wish: ChunkWish) -> list[Frame | None]:
        """Frames for this host's mount server; None: it should ask the registry itself.

        Raises:
            StateError: they are not exchanged here.
        """
        blob, count = wish.blob.digest, len(wish.refs)
        if (refused := self._refusal(wish)) is not None:
            self.figures.not_brought += count
            raise refused
        with self._tracer.span("cafs.bring", blob=blob, chunks=count, urgency=wish.urgency):
            return await self._bring(wish)

    def take_part(self, wish: ChunkWish) -> None:
        """The like of this will be wanted in a moment. Hosts that say so early know of each other by then,
        and none of them reads for all the others because it was the first.
        """
        if self._refusal(wish) is None:
            self._nursery.start_soon(self._shared.swarm, self._shared.join(wish.blob, wish.repository))

    async def fill(self, wish: ChunkWish) -> tuple[list[Frame | None], list[bool]]:
        """As ``bring``, for who shares our store; also, which of the chunks lie or will lie in there.

        Raises:
            StateError: they are not exchanged here.
        """
        frames = await self.bring(wish)
        digests = [ref.digest for ref in wish.refs]
        stored = {digest for digest in digests if self._writer.get(digest) is not None}
        asked = [digest for digest in digests if digest not in stored]
        if asked and self._store is not None:
            try:
                here = await trio.to_thread.run_sync(self._store.has, asked, limiter=self._threads)
            except StorageError as e:
                log.warning("the chunk store cannot be read: %s", e)
            else:
                stored.update(digest for digest, one in zip(asked, here, strict=True) if one)
        return frames, [digest in stored for digest in digests]

    async def _bring(self, wish: ChunkWish) -> list[Frame | None]:
        joined = self._shared.join(wish.blob, wish.repository)
        frames = await self._here(wish.refs)
        places = [place for place, frame in enumerate(frames) if frame is None]
        if places and wish.may_fetch:
            await self._fetch(wish, joined, places, frames)
            if wish.urgency == _FILL:
                await self._writer.room()
        self.figures.brought += sum(frame is not None for frame in frames)
        self.figures.not_brought += sum(frame is None for frame in frames)
        return frames

    async def _fetch(
        self, wish: ChunkWish, joined: SharedBlob, places: Sequence[int], frames: list[Frame | None]
    ) -> None:
        """Those chunks of the wish; what another image described in another way is tried as this one does."""
        for _ in range(_TRIES):
            flights = self._wanted(wish, joined, [wish.refs[place] for place in places])
            for place, flight in zip(places, flights, strict=True):
                await flight.done.wait()
                frames[place] = flight.frame
            places = [
                place
                for place, flight in zip(places, flights, strict=True)
                if flight.frame is None and flight.of != (wish.blob, wish.refs[place])
            ]
            if not places:
                return

    def _refusal(self, wish: ChunkWish) -> StateError | None:
        """Why the wish is not fulfilled; this host has no part in the blob's swarm then."""
        try:
            self._account.check(wish)
        except StateError as e:
            self._shared.leave(wish.blob)
            return e
        return None

    def _wanted(self, wish: ChunkWish, joined: SharedBlob, refs: Sequence[ChunkRef]) -> list[_Flight]:
        """The flight of each chunk; new ones begin."""
        work = Urgent(wish.urgency)
        fresh: dict[ChunkRef, _Flight] = {}
        flights: list[_Flight] = []
        for ref in refs:
            flight = self._flights.get(form_of(ref))
            if flight is None:
                fresh[ref] = flight = self._flights[form_of(ref)] = _Flight((wish.blob, ref), work)
            else:
                flight.work.hasten(wish.urgency)
            flights.append(flight)
        if fresh:
            self._nursery.start_soon(self._fly, wish, joined, fresh, work)
        return flights

    async def _fly(
        self, wish: ChunkWish, joined: SharedBlob, mine: Mapping[ChunkRef, _Flight], work: Urgent
    ) -> None:
        try:
            bring = self._bring_in_turn if work.urgency == _FILL else self._bring_window
            async with trio.open_nursery() as nursery:
                for window, inside in _by_window(mine):
                    nursery.start_soon(bring, wish, joined, window, inside, work)
        except Exception:
            log.exception("bringing chunks failed in an unforeseen way")
        finally:
            for ref, flight in mine.items():
                if self._flights.get(form_of(ref)) is flight:  # else it came, and may be wanted anew
                    self._land(form_of(ref), None)

    async def _bring_in_turn(
        self, wish: ChunkWish, joined: SharedBlob, window: int, refs: Sequence[ChunkRef], work: Urgent
    ) -> None:
        """Whose a window is counts when it is its turn: a host that began alone shares what is left."""
        async with self._filling.enter(work):
            await self._bring_window(wish, joined, window, refs, work)

    async def _bring_window(
        self, wish: ChunkWish, joined: SharedBlob, window: int, refs: Sequence[ChunkRef], work: Urgent
    ) -> None:
        swarm = await self._shared.swarm(joined)
        left = refs
        for member in (order := self._order(joined, swarm, window))[:OWNERS_ASKED]:
            if member is None:
                elders = self._elders(wish, joined, order, work)
                chunks = await self._origin.fetch(_part(wish, left, work), left, elders, len(order))
                for chunk in chunks:
                    if chunk is not None:
                        self._land(form_of_chunk(chunk), chunk.frame)
                return
            left = await self._ask(member, _part(wish, left, work), work)
            if not left:
                return

    def _order(self, joined: SharedBlob, swarm: ChunkSwarm | None, window: int) -> list[ChunkMember | None]:
        """Whom to ask for a window, the owner first; None stands for this host."""
        if swarm is None:
            return [None]
        members: dict[HostId, ChunkMember | None] = {m.host_id: m for m in swarm.owners}
        if swarm.self_owner:
            members[self._membership.host_id] = None
        order = [members[host] for host in joined.turns.order(swarm.task, window, tuple(sorted(members)))]
        return [m for m in order if m is None or not self._peers.is_shunned(m)]

    def _elders(
        self, wish: ChunkWish, joined: SharedBlob, order: Sequence[ChunkMember | None], work: Urgent
    ) -> Callable[[Sequence[ChunkRef]], Awaitable[Sequence[ChunkRef]]] | None:
        """Asks who else may have a window's chunks, before they are read; None: nobody.

        Those come first who are its owners by what this host knows, where another one took it for that.
        """
        members = [member for member in order if member is not None]
        if joined.is_young:
            return partial(self._ask_at_once, wish, members[:YOUNG_ELDERS], work) if members else None
        return partial(self._ask_in_turn, wish, members[:ELDERS_ASKED], work) if members else None

    async def _ask_in_turn(
        self, wish: ChunkWish, members: Sequence[ChunkMember], work: Urgent, refs: Sequence[ChunkRef]
    ) -> Sequence[ChunkRef]:
        left: Sequence[ChunkRef] = refs
        for member in members:
            if left:
                left = await self._ask(member, _part(wish, left, work, may_fetch=False), work)
        return left

    async def _ask_at_once(
        self, wish: ChunkWish, members: Sequence[ChunkMember], work: Urgent, refs: Sequence[ChunkRef]
    ) -> Sequence[ChunkRef]:
        left = {ref.digest: ref for ref in refs}

        async def ask(member: ChunkMember) -> None:
            lacks = await self._ask(member, _part(wish, refs, work, may_fetch=False), work)
            for digest in {ref.digest for ref in refs} - {ref.digest for ref in lacks}:
                left.pop(digest, None)

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(ask, member)
        return list(left.values())

    async def _ask(self, member: ChunkMember, wish: ChunkWish, work: Urgent) -> Sequence[ChunkRef]:
        """Have a member send chunks; returns those that it did not.

        Who may fetch them may have to ask others first, and these wait for places of their own: else hosts
        that fill themselves at once wait for owners, who wait for places that such waits hold.
        """
        gate = self._asking if wish.may_fetch else self._asking_elders
        for _ in range(BUSY_TIMES):
            try:
                async with gate.enter(work):
                    frames = await self._peers.ask(member, wish, PATIENCE_S[work.urgency])
            except UnavailableError:
                if work.urgency < _FILL or not wish.may_fetch:
                    return wish.refs
                await trio.sleep(BUSY_S)
            except CafsError as e:
                self.figures.failed += 1
                log.info("chunks of %s: %s", wish.blob.digest, e)
                return wish.refs
            else:
                return await self._take(member, wish, frames)
        return wish.refs

    async def _take(
        self, member: ChunkMember, wish: ChunkWish, frames: Sequence[Frame | None]
    ) -> Sequence[ChunkRef]:
        sent = [(ref, frame) for ref, frame in zip(wish.refs, frames, strict=True) if frame is not None]
        results = await verify_some(sent, self._threads)
        chunks = [chunk for chunk in results if isinstance(chunk, Chunk)]
        wrong = sum(
            not isinstance(result, Chunk | MisdescribedError) for result in results
        )  # a wish is another host's, or an image's: nobody is blamed for what it says
        if wrong:
            self.figures.wrong += wrong
            log.warning("host %s sent wrong chunks: it is asked no more", member.address)
            self._peers.shun(member, WRONG_S)
            self._membership.note_wrong(wish.blob, member)
        self.figures.from_peers += len(chunks)
        count = sum(len(chunk.frame) for chunk in chunks)
        self.figures.peer_bytes += count
        if count:
            self._account.note(wish.blob, count, member)
        self._recent.put(chunks)
        for chunk in chunks:
            self._origin.arrived(chunk)
            self._land(form_of_chunk(chunk), chunk.frame)
        self._writer.offer(chunks)
        here = {chunk.digest for chunk in chunks}
        return [ref for ref in wish.refs if ref.digest not in here]

    def _land(self, form: Form, frame: Frame | None) -> None:
        flight = self._flights.pop(form, None)
        if flight is not None:
            flight.frame = frame
            flight.done.set()

    async def _keep_from_source(self, blob: BlobRef, chunks: Sequence[Chunk], work: Urgent) -> None:
        self._recent.put(chunks)
        count = sum(len(chunk.frame) for chunk in chunks)
        self.figures.from_source += len(chunks)
        self.figures.source_bytes += count
        self._account.note(blob, count, None)
        if work.urgency == _FILL:
            await self._writer.room()
        self._writer.offer(chunks)

    # For other hosts

    async def serve(self, wish: ChunkWish) -> list[Frame | None]:
        """See ``ChunkServer``. The registry is asked only for blobs that this host mounts itself."""
        joined = self._shared.used(wish.blob)  # also where all of it is here: that is what owners stay for
        frames = await self._here(wish.refs)
        places = [place for place, frame in enumerate(frames) if frame is None]
        if places:
            missing = [wish.refs[place] for place in places]
            may_fetch = wish.may_fetch and joined is not None and joined.is_meant_by(wish)
            if may_fetch and joined is not None and self._refusal(wish) is None:
                chunks = await self._fetch_as_owner(wish, joined, missing)
            else:
                chunks = await self._origin.join(missing, wish.urgency)
            for place, chunk in zip(places, chunks, strict=True):
                frames[place] = chunk.frame if chunk is not None else None
        served = [frame for frame in frames if frame is not None]
        self.figures.served += len(served)
        self.figures.served_bytes += sum(map(len, served))
        return frames

    async def _fetch_as_owner(
        self, wish: ChunkWish, joined: SharedBlob, refs: Sequence[ChunkRef]
    ) -> list[Chunk | None]:
        swarm = await self._shared.swarm(joined)
        work = Urgent(wish.urgency)
        found: dict[bytes, Chunk | None] = {}

        async def fetch(window: int, inside: Sequence[ChunkRef]) -> None:
            order = self._order(joined, swarm, window)
            elders = self._elders(wish, joined, order, work)
            chunks = await self._origin.fetch(_part(wish, inside, work), inside, elders, len(order))
            found.update((ref.digest, chunk) for ref, chunk in zip(inside, chunks, strict=True))

        async with trio.open_nursery() as nursery:
            for window, inside in _by_window(refs):
                nursery.start_soon(fetch, window, inside)
        return [found[ref.digest] for ref in refs]

    # Both

    async def _here(self, refs: Sequence[ChunkRef]) -> list[Frame | None]:
        """Frames in memory or in the store."""
        frames = [self._recent.get(ref) for ref in refs]
        asked = [place for place, frame in enumerate(frames) if frame is None]
        if self._store is None or not asked:
            return frames
        try:
            if len(asked) <= FEW and not any(self._store.has([refs[place].digest for place in asked])):
                return frames
            stored = await trio.to_thread.run_sync(
                self._store.frames, [refs[place] for place in asked], limiter=self._threads
            )
        except StorageError as e:
            log.warning("the chunk store cannot be read: %s", e)
            return frames
        for place, frame in zip(asked, stored, strict=True):
            # What arrived while the store was read was not in it yet, and is on its way no more.
            frames[place] = frame if frame is not None else self._recent.get(refs[place])
        return frames

    async def _let_connections_go(self) -> None:
        while True:
            await trio.sleep(IDLE_S)
            await self._repositories.close_idle(())


def _by_window(refs: Iterable[ChunkRef]) -> Iterator[tuple[int, list[ChunkRef]]]:
    windows: dict[int, list[ChunkRef]] = {}
    for ref in refs:
        windows.setdefault(ref.offset // WINDOW_BYTES, []).append(ref)
    yield from windows.items()


def _part(wish: ChunkWish, refs: Sequence[ChunkRef], work: Urgent, *, may_fetch: bool = True) -> ChunkWish:
    return ChunkWish(wish.blob, wish.repository, tuple(refs), may_fetch, work.urgency)
