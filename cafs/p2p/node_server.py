"""The node socket: what programs on this machine ask of their peer. A ``Handler`` for ``cafs.http11``.

docs/peer.md describes it. Only whoever may open the socket (0600) can ask; what they say is checked all the
same, and what a request holds of credentials goes to the origin and into no log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cafs.core.exposition import CONTENT_TYPE
from cafs.core.learning import PROFILES_PATH
from cafs.core.swarm.chunk_request import (
    CHUNKS_PATH,
    HAVE_HEADER,
    LEAST_URGENT,
    STORE_HEADER,
    STORED_HEADER,
    encode_bits,
    encode_have,
    parse_chunk_wish,
)
from cafs.core.swarm.download_request import DOWNLOAD_PATH, STATUS_PATH, parse_download
from cafs.core.swarm.ids import TaskId, parse_task_id
from cafs.errors import CafsError, NotFoundError, UnavailableError, UsageError
from cafs.http11.messages import BYTES_TYPE, Answer, Handler, Headers, Reply, Request, ServerLimits
from cafs.p2p.chunk_exchange import ChunkExchange
from cafs.p2p.content import Content, Distributor, OriginError, Wish
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.node_refusals import refuse
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_store import TaskStore
from cafs.p2p.upload_server import describe_task

log = logging.getLogger(__name__)

TASKS_PATH, METRICS_PATH, LIMITS_PATH = "/v1/tasks", "/metrics", "/v1/limits"
LIMITS = ServerLimits(connections=512, idle_s=300.0, send_s=120.0)
_SHIFTED = frozenset(["content-length", "content-range", "content-type", "transfer-encoding", "connection"])
"""Headers of the origin's answer that say something about its own message only, or that we say ourselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What the socket leads to."""

    tasks: TaskStore
    exchange: ChunkExchange
    limits: LiveLimits
    store: Path | None
    """The chunk store that the exchange keeps its chunks in."""
    distributor: Distributor | None
    """None: this peer serves what it has, and downloads nothing new."""
    profiles: ProfileRelay
    status: Callable[[], dict[str, Any]]
    metrics: Callable[[], bytes]


class NodeServer:
    """See the module."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", CHUNKS_PATH): self._chunks,
            ("POST", DOWNLOAD_PATH): self._download,
            ("GET", TASKS_PATH): self._list_tasks,
            ("GET", STATUS_PATH): self._status,
            ("GET", METRICS_PATH): self._metrics,
            ("PATCH", LIMITS_PATH): self._change_limits,
        }

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        try:
            await self._route(request)(request, reply)
        except OriginError as e:
            if reply.begun:
                raise
            await reply.send(_of_origin(e))
        except CafsError as e:
            if reply.begun:
                log.warning("an answer was broken off: %s", e)
                return
            await reply.send(refuse(e))

    def _route(self, request: Request) -> Handler:
        if (act := self._routes.get((request.method, request.path))) is not None:
            return act
        if request.path.startswith(TASKS_PATH + "/") and request.method in {"GET", "DELETE"}:
            return self._show_task if request.method == "GET" else self._delete_task
        if request.path.startswith(PROFILES_PATH) and request.method in {"GET", "POST"}:
            profiles = self._parts.profiles
            return profiles.answer_wish if request.method == "GET" else profiles.take_start
        if request.path in {path for _, path in self._routes}:
            raise UsageError(f"{request.path} knows no {request.method}")
        raise NotFoundError(f"there is no {request.path[:100]}")

    async def _chunks(self, request: Request, reply: Reply) -> None:
        wish, exchange = parse_chunk_wish(request.body), self._parts.exchange
        store = quote(str(self._parts.store)) if self._parts.store is not None and exchange.keeps else None
        headers: Headers = ()
        if store is not None and wish.urgency == LEAST_URGENT and request.header(STORE_HEADER) == store:
            frames, stored = await exchange.fill(wish)
            frames = [None if there else frame for frame, there in zip(frames, stored, strict=True)]
            headers = ((STORED_HEADER, encode_bits(stored)),)
        else:
            frames = await exchange.bring(wish)
        headers = (*headers, (HAVE_HEADER, encode_have(frames)))
        if store is not None and exchange.keeps:
            headers = (*headers, (STORE_HEADER, store))
        body = b"".join(frame for frame in frames if frame is not None)
        await reply.send(Answer(HTTPStatus.OK, body, BYTES_TYPE, headers))

    async def _download(self, request: Request, reply: Reply) -> None:
        wanted = parse_download(request.body)
        if self._parts.distributor is None:
            raise UnavailableError("this peer downloads nothing: it has no way to an origin")
        wish = Wish(
            url=wanted.url,
            digest=wanted.digest,
            tag=wanted.tag,
            application=wanted.application,
            filtered_query=wanted.filtered_query,
            headers=wanted.headers,
            priority=wanted.priority,
            bytes_per_s=wanted.bytes_per_s,
            first_byte=wanted.first_byte,
            last_byte=wanted.last_byte,
        )
        content = await self._parts.distributor.open(wish)
        async with content:
            await _pass_on(wish, content, reply)

    async def _list_tasks(self, _request: Request, reply: Reply) -> None:
        tasks = [summary_of(task) for task in self._parts.tasks.tasks()]
        await reply.send(_json({"tasks": tasks}))

    async def _show_task(self, request: Request, reply: Reply) -> None:
        task = self._parts.tasks.find(_task_of(request))
        if task is None:
            raise NotFoundError("no such task is here")
        await reply.send(_json(summary_of(task) | describe_task(task)))

    async def _delete_task(self, request: Request, reply: Reply) -> None:
        if not await self._parts.tasks.delete(_task_of(request)):
            raise NotFoundError("no such task is here")
        await reply.send(Answer(HTTPStatus.NO_CONTENT, b""))

    async def _status(self, _request: Request, reply: Reply) -> None:
        await reply.send(_json(self._parts.status()))

    async def _metrics(self, _request: Request, reply: Reply) -> None:
        await reply.send(Answer(HTTPStatus.OK, self._parts.metrics(), CONTENT_TYPE))

    async def _change_limits(self, request: Request, reply: Reply) -> None:
        try:
            document = json.loads(request.body)
        except (ValueError, RecursionError):
            raise UsageError("the body is not JSON") from None
        if not isinstance(document, dict):
            raise UsageError("the body is no JSON object")
        self._parts.limits.change(self._parts.limits.now.changed(document))
        log.info("limits are changed: %s", document)
        await reply.send(_json(self._parts.limits.now.to_json()))


async def _pass_on(wish: Wish, content: Content, reply: Reply) -> None:
    """Stream a content as an answer to HTTP: 206 where a part was wanted and its place is known."""
    first, last, total = content.first_byte, content.last_byte, content.content_bytes
    length = None if last is None else last - first + 1
    status, headers = HTTPStatus.OK, tuple(h for h in content.headers if h[0].lower() not in _SHIFTED)
    if (wish.first_byte or wish.last_byte is not None) and last is not None and last >= first:
        status = HTTPStatus.PARTIAL_CONTENT
        whole = "*" if total is None else str(total)
        headers = (*headers, ("Content-Range", f"bytes {first}-{last}/{whole}"))
    kind = next((v for n, v in content.headers if n.lower() == "content-type"), BYTES_TYPE)
    async with reply.stream(status, length, kind, headers) as send:
        async for piece in content:
            await send(piece)


def _of_origin(error: OriginError) -> Answer:
    """The origin's own answer, for clients that pass it on."""
    kind = next((v for n, v in error.headers if n.lower() == "content-type"), BYTES_TYPE)
    # Of a range that it does not have it says how long the content is.
    said = "content-range" if error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE else ""
    kept = tuple(h for h in error.headers if h[0].lower() == said or h[0].lower() not in _SHIFTED)
    headers = (*kept, ("X-Cafs-Origin-Status", str(error.status)))
    return Answer(HTTPStatus.BAD_GATEWAY, error.body, kind, headers)


def summary_of(task: StoredTask) -> dict[str, Any]:
    """A task in a list."""
    layout = task.layout
    return {
        "id": task.id,
        "url": task.spec.url,
        "digest": task.spec.digest,
        "tag": task.spec.tag,
        "application": task.spec.application,
        "content_bytes": layout.content_bytes if layout is not None else None,
        "pieces": layout.count if layout is not None else None,
        "pieces_here": len(task.have),
        "held_bytes": task.held_bytes,
        "complete": task.complete,
        "whole": task.whole,
        "in_use": task.in_use,
        "used_at": task.used_at_s,
    }


def _task_of(request: Request) -> TaskId:
    return parse_task_id(request.path.removeprefix(TASKS_PATH + "/"))


def _json(document: Any) -> Answer:
    return Answer(HTTPStatus.OK, json.dumps(document, ensure_ascii=False).encode() + b"\n")
