"""Running a coroutine in an asyncio loop of its own, from a test that runs in trio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def run_asyncio(work: Callable[[], Awaitable[T]]) -> T:
    """Blocks: call it in a worker thread."""

    async def main() -> T:
        return await work()

    return asyncio.run(main())
