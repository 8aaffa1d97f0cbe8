"""Asks a cluster's schedulers what they know: of tasks, of their swarms, and why they chose as they did.

All of them at once, with one deadline, in the event loop: one that hangs holds no thread that others need.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from cafs.daemon.grpc_client import LinkTls, open_loop_channel
from cafs.errors import NotFoundError, UnavailableError
from cafs.manager.in_thread import in_thread
from cafs.proto import p2p_pb2
from cafs.proto.services import methods_of

PATIENCE_S = 3.0
AT_ONCE = 32
"""Questions; others wait for their turn, as long as for an answer."""
MOST_ASKED = 64
_METHODS = {method.name: method for method in methods_of(p2p_pb2.DESCRIPTOR, "Scheduler")}


@dataclass(frozen=True, slots=True)
class Said:
    """By one of them."""

    address: str
    answer: Any
    """None: it does not know what it was asked about, or gave no answer."""
    failure: str
    """Why there is no answer; empty: there is one, if only that it does not know."""


class Schedulers:
    """See the module. Belongs to the event loop's thread."""

    def __init__(
        self, tls: LinkTls | None, *, patience_s: float = PATIENCE_S, at_once: int = AT_ONCE
    ) -> None:
        """
        Args:
            tls: With what they are asked; None: in the clear.
            patience_s: For an answer, and before that for a turn.
            at_once: Questions that are under way.
        """
        self._tls = tls
        self._patience_s = patience_s
        self._turns = asyncio.Semaphore(at_once)

    async def ask_all(self, addresses: Sequence[str], method: str, request: Message) -> list[Said]:
        """What each says; those that do not answer in time are told as such.

        Raises:
            StorageError: a file of TLS cannot be read.
            UnavailableError: too many other questions wait for an answer.
        """
        async with self._turn():
            credentials = None if self._tls is None else await in_thread(self._tls.credentials)
            return await asyncio.gather(
                *(self._ask(address, credentials, method, request) for address in addresses[:MOST_ASKED])
            )

    async def ask_who_knows(self, addresses: Sequence[str], method: str, request: Message) -> Any:
        """The answer about a task, of the scheduler in which most hosts have to do with it.

        Raises:
            NotFoundError: none knows it.
            StorageError: a file of TLS cannot be read.
            UnavailableError: none answers that might, or too many other questions wait for an answer.
        """
        told = await self.ask_all(addresses, method, request)
        found = [said.answer for said in told if said.answer is not None]
        if found:
            return max(found, key=lambda answer: answer.task.members)
        if silent := [f"{said.address} ({said.failure})" for said in told if said.failure]:
            raise UnavailableError(f"schedulers do not answer: {', '.join(silent[:3])}")
        raise NotFoundError("no scheduler of this cluster knows such a task")

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._patience_s):
                    await stack.enter_async_context(self._turns)
            except TimeoutError:
                raise UnavailableError("too many questions wait for schedulers: try again") from None
            yield

    async def _ask(
        self, address: str, credentials: grpc.ChannelCredentials | None, method: str, request: Message
    ) -> Said:
        asked = _METHODS[method]
        async with open_loop_channel(address, credentials) as channel:
            call = channel.unary_unary(asked.path, asked.serialize_request, asked.parse_response)
            try:
                return Said(address, await call(request, timeout=self._patience_s), "")
            except grpc.aio.AioRpcError as e:
                known = e.code() is grpc.StatusCode.NOT_FOUND
                return Said(address, None, "" if known else e.code().name.lower().replace("_", " "))
