"""Sending much over a plain socket with as few turns of the loop as can be.

``trio.SocketStream.send_all`` gives up its turn after each part that the socket took, and asks a full one
again before it waits; of a MiB on a slow link that is some thirty turns, half of them for nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress

import trio


async def send_all(stream: trio.abc.Stream, data: bytes | memoryview) -> None:
    """As ``stream.send_all``, for one sender at a time; ``data`` should be no more than a MiB.

    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: as there.
    """
    if not isinstance(stream, trio.SocketStream):
        await stream.send_all(data)
        return
    await trio.lowlevel.checkpoint()
    view = memoryview(data)
    while view:
        with suppress(BlockingIOError):
            view = view[_write(stream.socket.fileno(), view) :]
        if view:
            await trio.lowlevel.wait_writable(stream.socket.fileno())


def _write(fd: int, view: memoryview) -> int:
    if fd < 0:
        raise trio.ClosedResourceError("this socket was already closed")
    try:
        return os.write(fd, view)
    except BlockingIOError:
        raise
    except OSError as e:
        raise trio.BrokenResourceError(f"socket connection broken: {e}") from e
