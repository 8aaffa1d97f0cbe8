"""What the manager's jobs want of this host: begun, stopped, told of. See ``Orders`` in proto/manager.proto.

The manager always tells all that is to be done. What it tells no more is cancelled, or forgotten when it is
done; what it tells again is only answered. Belongs to the trio thread; each order is a task in the host's
nursery, and a mistake in one is that one's failure.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable

import trio

from cafs.core.digest import parse_digest
from cafs.core.swarm.priorities import HIGHEST
from cafs.daemon.tellable import tellable
from cafs.errors import CafsError, UsageError, leading_error
from cafs.oci.descriptor import parse_platform
from cafs.oci.reference import RegistryReference, parse_reference
from cafs.p2p.content import Wish
from cafs.p2p.preheat_image import ImageWish, preheat_image
from cafs.p2p.tidy import Unwanted, collect_garbage, delete_tasks, list_held
from cafs.p2p.work import Result, Tell, Work, preheat_file
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

MOST_ORDERS, _MOST_TASKS = 16, 16
_TELL_EVERY_S = 1.0
_Say = Callable[[manager_pb2.FromService], None]


class Orders:
    """See the module."""

    def __init__(self, work: Work, say: _Say) -> None:
        """``say``: tells the manager; where there is none just now, it is lost."""
        self._work = work
        self._say = say
        self._doing: dict[int, _Doing] = {}

    def take(self, told: manager_pb2.Orders) -> None:
        """All that is to be done."""
        wanted = {order.job_id: order for order in told.orders[:MOST_ORDERS]}
        for job_id, doing in list(self._doing.items()):
            if job_id not in wanted or wanted[job_id].attempt != doing.order.attempt:
                del self._doing[job_id]
                doing.scope.cancel()
        for job_id, order in wanted.items():
            if (known := self._doing.get(job_id)) is not None:
                known.report()
            else:
                begun = self._doing[job_id] = _Doing(order, self._say)
                self._work.nursery.start_soon(begun.run, self._work)


class _Doing:
    """One order, until it is told no more."""

    def __init__(self, order: manager_pb2.Order, say: _Say) -> None:
        self.order = order
        self._say = say
        self.scope = trio.CancelScope()
        self._now = manager_pb2.OrderReport(
            job_id=order.job_id, attempt=order.attempt, progress=manager_pb2.DOING
        )
        self._said_at = trio.current_time()

    def report(self) -> None:
        """Say how far it is."""
        self._said_at = trio.current_time()
        self._say(manager_pb2.FromService(order_report=self._now))

    async def run(self, work: Work) -> None:
        """Do it. Not for ever: the manager says when it is too late."""
        with self.scope:
            self._ended(await self._outcome(work))

    async def _outcome(self, work: Work) -> str:
        """Why it failed; empty: it is done."""
        try:
            result = await _act_of(self.order)(work, self._tell)
            self._now.result = json.dumps(result).encode() if result else b""
        except Exception as e:  # the manager hears why, and the peer goes on
            error = leading_error(e)
            if isinstance(error, CafsError):
                return str(error) or type(error).__name__
            log.exception("a mistake in what job %d wants", self.order.job_id)
            return "a mistake in this host: its log says more"
        return ""

    def _tell(self, done_bytes: int, total_bytes: int) -> None:
        self._now.done_bytes, self._now.total_bytes = done_bytes, total_bytes
        if trio.current_time() - self._said_at >= _TELL_EVERY_S:
            self.report()

    def _ended(self, why: str) -> None:
        self._now.progress = manager_pb2.FAILED if why else manager_pb2.DONE
        self._now.why = tellable(why)
        if why:
            log.warning("what job %d wants cannot be done: %s", self.order.job_id, why)
        self.report()


def _act_of(order: manager_pb2.Order) -> Callable[[Work, Tell], Awaitable[Result]]:
    """What is to be done, checked.

    Raises:
        UsageError: it is unknown here, or cannot be.
    """
    match order.WhichOneof("work"):
        case "file":
            wish = _wish_of(order.file)
            return lambda work, tell: preheat_file(work, wish, tell)
        case "image":
            image = _image_of(order.image)
            return lambda work, tell: preheat_image(work, image, tell)
        case "delete":
            unwanted = _unwanted_of(order.delete)
            return lambda work, _tell: delete_tasks(work, unwanted)
        case "list":
            return lambda work, _tell: list_held(work)
        case "collect":
            idle_s = order.collect.idle_s
            return lambda work, _tell: collect_garbage(work, idle_s)
    raise UsageError("this version of CAFS cannot do what the job wants")


def _unwanted_of(delete: manager_pb2.DeleteTasks) -> Unwanted:
    return Unwanted(
        task_ids=frozenset(delete.task_ids[:_MOST_TASKS]),
        url=delete.url,
        tag=delete.tag,
        application=delete.application,
    )


def _priority(number: int) -> int:
    if number > HIGHEST:
        raise UsageError(f"a priority of {number}")
    return number


def _image_of(image: manager_pb2.PreheatImage) -> ImageWish:
    reference = parse_reference(image.image)
    if not isinstance(reference, RegistryReference):
        raise UsageError(f"{reference} is in no registry")
    return ImageWish(
        image=reference,
        start_only=image.start_only,
        platforms=tuple(parse_platform(platform) for platform in image.platforms),
        priority=_priority(image.priority),
    )


def _wish_of(file: manager_pb2.PreheatFile) -> Wish:
    return Wish(
        url=file.url,
        digest=parse_digest(file.digest) if file.digest else None,
        tag=file.tag,
        application=file.application,
        filtered_query=tuple(file.filtered_query),
        headers=tuple((header.name.lower(), header.value) for header in file.headers),
        priority=_priority(file.priority),
    )
