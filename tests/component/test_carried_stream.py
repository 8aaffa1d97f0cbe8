"""A host's stream at whoever serves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from cafs.daemon.carried_stream import CarriedStream, carry
from tests.support.asyncio_thread import run_asyncio
from tests.support.patience import PATIENCE_S


class _AbortedError(Exception):
    pass


class StuckHost:
    """The call of a host that takes nothing and says nothing."""

    def __init__(self) -> None:
        self.written_to = asyncio.Event()
        self.told: tuple[grpc.StatusCode, str] | None = None

    async def write(self, _message: Any) -> None:
        self.written_to.set()
        await asyncio.Event().wait()

    async def abort(self, code: grpc.StatusCode, why: str) -> None:
        self.told = code, why
        raise _AbortedError

    async def requests(self) -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield object()


def test_a_host_that_takes_nothing_from_the_first_word_on_can_be_ended() -> None:
    async def main() -> None:
        host, stream, left = StuckHost(), CarriedStream(), asyncio.Event()
        words = [["welcome"]]

        async def hear(_message: object) -> None:
            raise AssertionError("it said nothing")

        carrying = asyncio.create_task(
            carry(
                stream,
                host.requests(),
                host,  # type: ignore[arg-type]  # as much of a context as is needed
                name="stuck",
                take=lambda: words.pop() if words else [],
                hear=hear,
                left=left.set,
            )
        )
        async with asyncio.timeout(PATIENCE_S):
            await host.written_to.wait()
            stream.end(grpc.StatusCode.DEADLINE_EXCEEDED, "nothing was heard")
            with pytest.raises(_AbortedError):
                await carrying
        assert left.is_set()
        assert host.told == (grpc.StatusCode.DEADLINE_EXCEEDED, "nothing was heard")

    run_asyncio(main)
