"""The engine of a peer: one download for each task that anybody here wants, and the way to it.

The ``Distributor`` of the node socket, the ``Bringer`` of the upload server, and the ``Host`` that schedulers
know. Downloads run in the engine's nursery; a mistake in one of them is that one's failure.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256

import trio

from cafs.core.recent import Recent
from cafs.core.swarm.demand import Demand
from cafs.core.swarm.freshness import is_fresh, said_since, taken_for_s
from cafs.core.swarm.ids import TaskId, is_private, task_id, tellable_url
from cafs.core.swarm.messages import ForgetReason
from cafs.core.swarm.task import TaskSpec, is_name
from cafs.errors import CafsError, StateError, UsageError
from cafs.p2p.content import NotSharedError, OriginError, Wish
from cafs.p2p.download import Download
from cafs.p2p.means import Means
from cafs.p2p.origin_word import OriginWord
from cafs.p2p.sharing import NotShared, check_shared
from cafs.p2p.source import ChangedError, ForbiddenAddressError, Guard, check_unchanged
from cafs.p2p.source_runs import Origin, guard_of
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_content import TaskContent

log = logging.getLogger(__name__)

_VERSIONS = 1024


class Engine:
    """See the module."""

    def __init__(self, means: Means, nursery: trio.Nursery) -> None:
        self._means = means
        self._nursery = nursery
        self._downloads: dict[TaskId, Download] = {}
        self._not_shared = NotShared()
        self._word = OriginWord(means.sources)
        self._versions: Recent[TaskId, str] = Recent(_VERSIONS)
        """Of contents that changed at their origin: what tells the new one from the old one. Of one that is
        forgotten the origin says it again, as to a host that never knew."""

    @property
    def active(self) -> dict[TaskId, Download]:
        """Downloads under way."""
        return self._downloads

    # For this host

    async def open(self, wish: Wish) -> TaskContent:
        """See ``Distributor``."""
        began = trio.current_time()
        held = await self.hold(wish)
        return TaskContent(held, self._means.readers.reader(held.task.spec, held.had, began))

    async def hold(self, wish: Wish, *, waits: bool = True, of_others: bool = False) -> Hold:
        """Have a wish fulfilled until it is released; returns when it is known what the content is like.

        Args:
            wish: What is wanted.
            waits: Somebody reads it in order; else all of it is wanted, whenever it comes.
            of_others: It is no wish of this machine's: its loopback is not asked.

        Raises:
            CafsError: as ``Distributor.open``.
        """
        wish = self._means.policy.judge(wish)
        origin = Origin(url=wish.url, headers=wish.headers, of_others=of_others)
        spec = spec_of(wish)
        self._not_shared.check(spec)
        try:
            return await self._hold(wish, spec, origin, waits=waits)
        except NotSharedError as e:
            self._not_shared.note(spec, e)
            raise

    async def _hold(self, wish: Wish, spec: TaskSpec, origin: Origin, *, waits: bool) -> Hold:
        asked_at_s = time.time()
        spec, seen = await self._accepted(wish, spec, origin)
        held = await self._take(wish, spec, origin, waits=waits)
        try:
            is_gone = await self._is_gone(wish, held, origin, seen, asked_at_s)
        except BaseException:
            held.release()
            raise
        if not is_gone:
            return held
        held.release()
        return await self._take(wish, await self._changed(wish, spec, origin), origin, waits=waits)

    async def _take(self, wish: Wish, spec: TaskSpec, origin: Origin, *, waits: bool) -> Hold:
        task = await self._means.tasks.take(spec)
        if task.meta is not None:
            check_shared(spec, task.meta.headers, wish.headers)
        demand = Demand(
            wish.first_byte,
            wish.last_byte,
            wish.first_byte,
            waits=waits,
            priority=wish.priority,
            bytes_per_s=wish.bytes_per_s,
        )
        held = Hold(self, task, demand, origin)
        try:
            await held.known()
            assert task.meta is not None
            check_shared(spec, task.meta.headers, wish.headers)
            self._means.tasks.check_room(_missing_bytes(task, demand))
        except BaseException:
            held.release()
            raise
        return held

    async def _accepted(self, wish: Wish, spec: TaskSpec, origin: Origin) -> tuple[TaskSpec, Guard | None]:
        """The task to take part in, once the origin was asked where only it can say who may have what.

        Also what it said of the content, where nobody here has anything to compare that with yet.

        Raises:
            OriginError: it refuses this client.
            CafsError: it does not answer, and its word is needed.
        """
        spec = self._newest(spec)
        task = self._means.tasks.find(spec.task_id)
        meta = task.meta if task is not None else None
        if not spec.private and (meta is None or spec.digest or is_fresh(meta, time.time(), wish.headers)):
            return spec, None
        download = self._downloads.get(spec.task_id)
        is_read = download is not None and bool(download.demands)
        has_asked = meta is not None and bool(meta.asked_at_s)
        if not spec.private and is_read and has_asked and taken_for_s(wish.headers):
            return spec, None  # somebody has it come just now
        try:
            seen = await self._word.say(spec, origin, None if meta is None else guard_of(meta))
        except ChangedError:
            return await self._changed(wish, spec, origin), None
        return spec, seen if meta is None else None

    async def _is_gone(
        self, wish: Wish, held: Hold, origin: Origin, seen: Guard | None, asked_at_s: float
    ) -> bool:
        """Whether other hosts have what the origin has no more: who was told by them asks it once.

        Args:
            wish: What is wanted.
            held: The task, of which something is known by now.
            origin: Where it comes from.
            seen: What the origin said, if it was asked already.
            asked_at_s: When the wish began, in seconds since the epoch.

        Raises:
            OriginError: the origin refuses it by now.
        """
        spec, meta = held.task.spec, held.task.meta
        assert meta is not None
        if spec.digest or held.knew or meta.asked_at_s:
            return False
        now_s = time.time()
        is_answer = said_since(meta, asked_at_s, now_s) and taken_for_s(wish.headers) > 0
        if seen is None and (is_answer or is_fresh(meta, now_s, wish.headers)):
            return False
        try:
            if seen is None:
                await self._word.say(spec, origin, guard_of(meta))
            else:
                check_unchanged(guard_of(meta), seen, "the origin")
        except ChangedError:
            return True
        return False

    async def _changed(self, wish: Wish, spec: TaskSpec, origin: Origin) -> TaskSpec:
        guard = await self._word.must_say(spec, origin, None)
        version = guard.etag or guard.last_modified or str(guard.content_bytes)
        log.info("what task %s is about has changed at its origin", spec.task_id)
        self._versions.put(spec_of(wish).task_id, version)
        return self._newest(spec_of(wish))

    def _newest(self, spec: TaskSpec) -> TaskSpec:
        version = self._versions.get(spec.task_id)
        return spec if version is None else spec_of_version(spec, version)

    def attach(
        self, task: StoredTask, demand: Demand, origin: Origin, *, seeds: bool = False
    ) -> Download | None:
        """The download that serves a demand, begun if there is none; None: all of it is here."""
        download = self._downloads.get(task.id)
        if download is None or download.ended.is_set():
            if _is_here(task, demand):
                return None
            download = self._downloads[task.id] = Download(self._means, task, origin, seeds=seeds)
            self._nursery.start_soon(self._run, download)
        download.add(demand, origin)
        return download

    async def _run(self, download: Download) -> None:
        try:
            with self._means.tracer.span("cafs.download", task=download.task.id) as span:
                await download.run()
                if download.error is not None:
                    span.fail(download.error)
        finally:
            if self._downloads.get(download.task.id) is download:
                del self._downloads[download.task.id]
            download.task.wake()
        if download.is_bad_content:
            await self._means.tasks.delete(download.task.id)

    # For other hosts

    async def bring(self, task: StoredTask, number: int) -> None:
        """See ``Bringer``."""
        download, layout = self._downloads.get(task.id), task.layout
        if download is None or layout is None or not download.at_source:
            return
        first = layout.first_byte(number)
        demand = Demand(first, first + layout.piece_bytes - 1, first)
        download.add(demand)
        try:
            while number not in task.have and not (task.forgotten or download.ended.is_set()):
                await task.changed()
        finally:
            download.remove(demand)

    # For schedulers

    def seed(self, spec: TaskSpec) -> None:
        """Fetch all of it, for others.

        Any host may have told the scheduler what a task is about: one that is not called so is another's, and
        what came from this address would be handed out as that one's content.
        """
        if not _is_called_so(spec):
            log.warning("task %s is not what %.200s is called: it is not seeded", spec.task_id, spec.url)
            return
        self._nursery.start_soon(self._seed, spec)

    async def _seed(self, spec: TaskSpec) -> None:
        try:
            task = await self._means.tasks.take(spec)
            demand = Demand(waits=False, priority=spec.priority)
            held = Hold(self, task, demand, Origin(url=spec.url, of_others=True), seeds=True)
            try:
                await held.all_here()
            finally:
                held.release()
        except (OriginError, ForbiddenAddressError, NotSharedError) as e:
            log.info("task %s cannot be seeded: %s", spec.task_id, e)
        except CafsError as e:
            log.warning("task %s cannot be seeded: %s", spec.task_id, e)

    def forget(self, task: TaskId, why: ForgetReason) -> None:
        """Delete what is here of it."""
        log.info("task %s is deleted: %s", task, why.value)
        self._nursery.start_soon(self._means.tasks.delete, task)

    def held(self) -> Iterable[StoredTask]:
        """What is here, the most recently used first."""
        known = [task for task in self._means.tasks.tasks() if task.meta is not None]
        return sorted(known, key=lambda task: task.used_at_s, reverse=True)


class Hold:
    """See ``Attachment``."""

    def __init__(
        self, engine: Engine, task: StoredTask, demand: Demand, origin: Origin, *, seeds: bool = False
    ) -> None:
        self.task = task
        self.demand = demand
        self.had = task.have.bits
        """What was here before."""
        self.knew = task.meta is not None
        """It was known here before what the content is like."""
        self._engine = engine
        self._origin = origin
        self._use = task.use()
        self._use.__enter__()
        self._released = False
        self._download = engine.attach(task, demand, origin, seeds=seeds)

    def look(self) -> None:
        """See ``Attachment``."""
        if self.task.forgotten:
            raise self._failure() or StateError("the content was deleted while it was read")
        if self._download is not None and not self._download.ended.is_set():
            self._download.poke()
            return
        if (error := self._failure()) is not None:
            raise error
        self._download = self._engine.attach(self.task, self.demand, self._origin)

    def _failure(self) -> Exception | None:
        return self._download.error if self._download is not None else None

    async def known(self) -> None:
        """Wait until it is known what the content is like.

        Raises:
            OriginError: it has no such range.
            Exception: the download's own.
        """
        while (layout := self.task.layout) is None:
            self.look()
            await self.task.changed()
        length, first = layout.content_bytes, self.demand.first_byte
        if length is not None and first >= length and first:
            headers = (("content-range", f"bytes */{length}"),)
            raise OriginError(f"the content has {length} bytes only", 416, headers, b"")

    async def all_here(self, tell: Callable[[int, int], None] | None = None) -> None:
        """Wait until all of the demand is served; raises as ``known``.

        Args:
            tell: Hears how much is here, and of how much (0: nobody knows), in bytes, whenever that changes.
        """
        while not _is_here(self.task, self.demand):
            if tell is not None:
                tell(*self._amounts())
            self.look()
            await self.task.changed()
        if tell is not None:
            tell(*self._amounts())

    def _amounts(self) -> tuple[int, int]:
        layout = self.task.layout
        return self.task.held_bytes, (layout.content_bytes or 0) if layout is not None else 0

    def release(self) -> None:
        """See ``Attachment``."""
        if not self._released:
            self._released = True
            if self._download is not None:
                self._download.remove(self.demand)
            self._use.__exit__(None, None, None)


def _is_here(task: StoredTask, demand: Demand) -> bool:
    layout = task.layout
    if layout is None or layout.count is None:
        return False
    if task.complete:
        return task.whole or task.spec.digest is None
    return all(number in task.have for number in demand.pieces(layout))


def _missing_bytes(task: StoredTask, demand: Demand) -> int:
    """Of what is wanted; 0 while nobody knows how much that is."""
    layout = task.layout
    if layout is None or layout.count is None:
        return 0
    return sum(layout.size(number) for number in demand.pieces(layout) if number not in task.have)


def spec_of(wish: Wish) -> TaskSpec:
    """The task that a wish is about."""
    private = is_private(wish.url, wish.headers)
    return TaskSpec(
        task_id=task_id(
            wish.url,
            tag=wish.tag,
            application=wish.application,
            digest=wish.digest or "",
            filtered_query=wish.filtered_query,
            private=private,
        ),
        url=tellable_url(wish.url, wish.filtered_query, private=private),
        digest=wish.digest,
        tag=wish.tag,
        application=wish.application,
        priority=wish.priority,
        private=private,
        filtered_query=wish.filtered_query,
    )


def _is_called_so(spec: TaskSpec) -> bool:
    """Whether the name of a task is computed from what it is about, as of all that everybody may fetch."""
    try:
        named = task_id(
            spec.url,
            tag=spec.tag,
            application=spec.application,
            digest=spec.digest or "",
            filtered_query=spec.filtered_query,
        )
    except UsageError:
        return False
    return named == spec.task_id


def spec_of_version(spec: TaskSpec, version: str) -> TaskSpec:
    """The task of what an origin has by now, where other hosts still share what it had before."""
    tag = f"{spec.tag}@{version}"
    if not is_name(tag):  # whatever an origin says; its words would end the conversation with the scheduler
        tag = f"@{sha256(tag.encode(errors='surrogateescape')).hexdigest()}"
    named = task_id(
        spec.url,
        tag=tag,
        application=spec.application,
        filtered_query=spec.filtered_query,
        private=spec.private,
    )
    return replace(spec, task_id=named, tag=tag)
