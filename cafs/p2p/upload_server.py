"""The data plane: what other hosts may have of this one. Tasks, their pieces, and chunks of images.

A ``Handler`` for ``cafs.http11``; docs/peer.md describes it. Only whole pieces leave, and each was verified
as it was read or written. Everything asked is hostile until checked, and nothing that is asked makes this
host fetch something: but for chunks of an image that it mounts itself (``ChunkExchange``).
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Protocol, cast

import trio

from cafs.core.swarm.chunk_request import CHUNKS_PATH, HAVE_HEADER, ChunkWish, encode_have, parse_chunk_wish
from cafs.core.swarm.ids import parse_task_id
from cafs.core.swarm.news import SIGN_OF_LIFE, News, encode_news
from cafs.core.tracing import TRACEPARENT, UNTRACED, Tracer
from cafs.errors import NotFoundError, StorageError, UsageError
from cafs.http11.messages import BYTES_TYPE, Answer, Reply, Request, Send, ServerLimits, refusal
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_store import TaskStore
from cafs.p2p.uploads import Uploads

log = logging.getLogger(__name__)

TASKS_PATH = "/v1/tasks/"
LIMITS = ServerLimits(connections=1024, client_connections=128)
RETRY_AFTER_S = 1
GATHER_S, MOST_GATHER_S = 0.02, 0.15
"""Announcements are held back for so long for each follower, and no longer: each costs both sides a part of
what a piece costs, and who has many followers is seldom the only one who has it."""
SIGN_OF_LIFE_S = 15.0
"""A follower that hears nothing for three times as long may leave."""
BRING_S = 30.0
"""For a piece that this host has to get from the source first."""
_MAX_FOLLOWERS = 512
_MAX_PIECE_DIGITS = 8


class ChunkServer(Protocol):
    """Gives chunks to other hosts."""

    async def serve(self, wish: ChunkWish) -> list[bytes | memoryview | None]:
        """Verified frames, in the wish's order; None for those that are not to be had here."""
        ...


class Bringer(Protocol):
    """Gets pieces of tasks that this host downloads itself: the engine."""

    async def bring(self, task: StoredTask, number: int) -> None:
        """Have the piece here, from the source if it is this host's turn; returns also when that failed."""
        ...


class UploadServer:
    """See the module."""

    def __init__(
        self,
        tasks: TaskStore,
        uploads: Uploads,
        chunks: ChunkServer | None = None,
        bringer: Bringer | None = None,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """Without ``chunks`` none are exchanged; without ``bringer`` only what is here is given."""
        self._tracer = tracer
        self._tasks = tasks
        self._uploads = uploads
        self._chunks = chunks
        self._bringer = bringer
        self._followers = 0

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request of another host."""
        try:
            await self._route(request, reply)
        except UsageError as e:
            await reply.send(refusal(HTTPStatus.BAD_REQUEST, str(e), "bad_request"))
        except NotFoundError as e:
            await reply.send(refusal(HTTPStatus.NOT_FOUND, str(e), "unknown"))
        except StorageError as e:
            log.warning("cannot serve another host: %s", e)
            await reply.send(refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the disk failed", "storage"))

    async def _route(self, request: Request, reply: Reply) -> None:
        wanted = "POST" if request.path == CHUNKS_PATH else "GET"
        if request.method != wanted:
            await reply.send(
                refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"this knows {wanted} only", "bad_request")
            )
            return
        if request.path == CHUNKS_PATH:
            wish = parse_chunk_wish(request.body)
            above, count = request.header(TRACEPARENT), len(wish.refs)
            with self._tracer.continued(above, "cafs.upload_chunks", blob=wish.blob.digest, chunks=count):
                await self._give_chunks(wish, request, reply)
            return
        task, rest = self._find(request.path)
        match rest:
            case []:
                await reply.send(Answer(HTTPStatus.OK, json.dumps(describe_task(task)).encode()))
            case ["have"]:
                await self._follow(task, reply)
            case ["pieces", number] if number.isdecimal() and len(number) <= _MAX_PIECE_DIGITS:
                above = request.header(TRACEPARENT)
                with self._tracer.continued(above, "cafs.upload", task=task.id, piece=int(number)):
                    await self._give_piece(task, int(number), request, reply)
            case _:
                raise NotFoundError("there is no such path")

    def _find(self, path: str) -> tuple[StoredTask, list[str]]:
        """The task that a path is about, and what of it."""
        if not path.startswith(TASKS_PATH):
            raise NotFoundError("there is no such path")
        name, *rest = path.removeprefix(TASKS_PATH).split("/")
        task = self._tasks.find(parse_task_id(name))
        if task is None or task.layout is None:
            raise NotFoundError("no such task is here")
        return task, rest

    async def _give_piece(self, task: StoredTask, number: int, request: Request, reply: Reply) -> None:
        layout = task.layout
        assert layout is not None
        if number not in task.have and self._bringer is not None and request.parameter("bring") == "1":
            with trio.move_on_after(BRING_S):
                await self._bringer.bring(task, number)
        if number not in task.have:
            raise NotFoundError("this piece is not here")
        with self._uploads.admitted(request.client) as served:
            if not served:
                await reply.send(_busy())
                return
            async with self._uploads.room(request.client, layout.size(number)) as has_room:
                if not has_room:
                    await reply.send(_busy())
                    return
                piece = await task.read_piece(number)
                digest = task.digest(number) or b""
                headers = (("X-Cafs-Digest", digest.hex()),)
                async with reply.stream(HTTPStatus.OK, len(piece), BYTES_TYPE, headers) as send:
                    await self._uploads.send(self._uploads.sending(send), memoryview(piece), task.id)

    async def _follow(self, task: StoredTask, reply: Reply) -> None:
        if self._followers >= _MAX_FOLLOWERS:
            await reply.send(_busy())
            return
        self._followers += 1
        try:
            async with reply.stream(HTTPStatus.OK, None, "application/jsonl") as send:
                await self._announce(task, send)
        finally:
            self._followers -= 1

    async def _announce(self, task: StoredTask, send: Send) -> None:
        """What is here and what comes, until all is here or the task is forgotten."""
        lines: trio.MemorySendChannel[News]
        lines, waiting = trio.open_memory_channel(0)

        async def gather() -> None:
            async with lines, aclosing(cast(AsyncGenerator[News], task.follow())) as changes:
                async for news in changes:
                    await lines.send(news)
                    await trio.sleep(min(MOST_GATHER_S, GATHER_S * self._followers))

        left: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gather)
            try:
                while (news := await _next_news(waiting)) is not None:
                    for line in encode_news(news):
                        await send(line)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as e:
                left = e  # let out of the nursery without a group round it
            nursery.cancel_scope.cancel()
        if left is not None:
            raise left

    async def _give_chunks(self, wish: ChunkWish, request: Request, reply: Reply) -> None:
        if self._chunks is None:
            raise NotFoundError("no chunks are exchanged here")
        with self._uploads.admitted(request.client) as served:
            if not served:
                await reply.send(_busy())
                return
            async with self._uploads.room(request.client, wish.frame_bytes) as has_room:
                if not has_room:
                    await reply.send(_busy())
                    return
                frames = await self._chunks.serve(wish)
                here = [frame for frame in frames if frame is not None]
                headers = ((HAVE_HEADER, encode_have(frames)),)
                async with reply.stream(HTTPStatus.OK, sum(map(len, here)), BYTES_TYPE, headers) as send:
                    sending = self._uploads.sending(send)
                    for frame in here:
                        await self._uploads.send(sending, frame)


async def _next_news(waiting: trio.MemoryReceiveChannel[News]) -> News | None:
    """What came, nothing after a while, None at the end."""
    with trio.move_on_after(SIGN_OF_LIFE_S):
        try:
            return await waiting.receive()
        except trio.EndOfChannel:
            return None
    return SIGN_OF_LIFE


def describe_task(task: StoredTask) -> dict[str, object]:
    """What other hosts, and people, are told of a task. Short: the digest of a piece comes with the piece."""
    layout = task.layout
    return {
        "content_bytes": layout.content_bytes if layout is not None else None,
        "piece_bytes": layout.piece_bytes if layout is not None else None,
        "digest": task.spec.digest,
        "complete": task.complete,
        "have": base64.b64encode(task.have.encode()).decode(),
        "headers": [list(header) for header in task.meta.headers] if task.meta is not None else [],
    }


def _busy() -> Answer:
    return refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "busy with others",
        "overloaded",
        (("Retry-After", str(RETRY_AFTER_S)),),
    )
