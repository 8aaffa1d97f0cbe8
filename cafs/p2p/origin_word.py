"""What an origin says just now of a content that hosts have already: for the engine, by one byte (trio)."""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus

import trio

from cafs.core.recent import Recent
from cafs.core.swarm.task import TaskSpec
from cafs.errors import RemoteError
from cafs.oci.registry.answers import origin_of
from cafs.p2p.content import OriginError
from cafs.p2p.sharing import check_shared
from cafs.p2p.source import ChangedError, Guard, Sources, check_unchanged
from cafs.p2p.source_runs import Origin, is_lasting

log = logging.getLogger(__name__)

ORIGIN_S = 3.0
"""For an origin to say whether what is here is still what it has."""
SILENT_S = 30.0
"""One that did not say so is not waited for so long: not for each range that somebody reads."""
_ORIGINS = 1024


class OriginWord:
    """See the module. May be asked concurrently."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._silent_until: Recent[tuple[str, str, int | None], float] = Recent(_ORIGINS)

    async def say(self, spec: TaskSpec, origin: Origin, guard: Guard | None) -> Guard | None:
        """Its word; None: it does not answer, or fails, and need not be heard.

        Raises:
            ChangedError: it has something else than ``guard``.
            OriginError: it refuses this client.
            NotSharedError: it lets nobody share it.
            CafsError: it does not answer, and its word is needed, as what is private is not given without.
        """
        if spec.private:
            return await self.must_say(spec, origin, guard)
        where = origin_of(origin.url)
        if (self._silent_until.get(where) or 0.0) > trio.current_time():
            return None
        why = "it is silent"
        try:
            with trio.move_on_after(ORIGIN_S):
                return await self.must_say(spec, origin, guard)
            if self._sources.has_room(origin.url):  # else others of ours may have kept it waiting
                self._silent_until.put(where, trio.current_time() + SILENT_S)
        except RemoteError as e:
            if isinstance(e, ChangedError) or (isinstance(e, OriginError) and is_lasting(e)):
                raise
            why = str(e)
        log.info("what is here of task %s is given without the origin's word: %s", spec.task_id, why)
        return None

    async def must_say(self, spec: TaskSpec, origin: Origin, guard: Guard | None) -> Guard:
        """Its word, however long that takes; raises as ``say``.

        Without If-Range: an origin that has something else by now would send all of it.
        """
        ask = partial(self._sources.open, origin.url, origin.headers, for_others=origin.of_others)
        try:
            async with ask(0, 0, None) as answer:
                if guard is not None:
                    check_unchanged(guard, answer.guard, "the origin")
                check_shared(spec, answer.headers, origin.headers)
                return answer.guard
        except OriginError as e:
            if e.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        async with ask(None, None, guard) as answer:
            check_shared(spec, answer.headers, origin.headers)
            return answer.guard
