"""The socket that containerd knows: it outlives the program, so that a call during a restart waits.

containerd's garbage collection asks once; a socket that nobody listens on would leave what it wanted removed.
grpc can only serve on sockets that it makes itself. So the one that containerd knows is ours, is kept by
systemd between two programs (its descriptor store; without systemd it ends with us), and what comes in is
passed on, byte for byte, to grpc's own below the root. Owned by ``program``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cafs.errors import StateError

LISTENER = "cafs-containerd"
"""What systemd calls the descriptor."""
_MAX_SOCKET_BYTES = 107
_BACKLOG = 128
_READ_BYTES = 1 << 16


def open_listener(address: Path, handed_over: Mapping[str, int]) -> socket.socket:
    """The socket at this path: the one that the program before us had, or a new one of mode 0600.

    Raises:
        StateError: somebody else listens there, or it is something else.
    """
    if LISTENER in handed_over:
        kept = socket.socket(fileno=handed_over[LISTENER])
        if kept.getsockname() == str(address) and address.is_socket():
            return kept
        kept.close()
    free_socket(address)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # it is nobody else's from its first moment on
    try:
        listener.bind(str(address))
    except OSError as e:
        listener.close()
        raise StateError(f"cannot serve on {address}: {e.strerror}") from e
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def free_socket(address: Path) -> None:
    """Take a stale socket away.

    Raises:
        StateError: somebody listens on it, or it is something else.
    """
    if len(os.fsencode(address)) > _MAX_SOCKET_BYTES:
        raise StateError(f"{address} is too long for a socket: at most {_MAX_SOCKET_BYTES} bytes")
    if not os.path.lexists(address):
        return
    if not address.is_socket():
        raise StateError(f"{address} exists and is no socket: move it away, or give --address")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(address))
        except ConnectionRefusedError:
            address.unlink()
        except OSError as e:
            raise StateError(f"cannot take over {address}: {e.strerror}") from e
        else:
            raise StateError(f"somebody serves on {address} already: stop it, or give --address")


@asynccontextmanager
async def passed_on(listener: socket.socket, inner: Path) -> AsyncIterator[None]:
    """Meanwhile what connects to ``listener`` talks to whoever serves at ``inner``. Closes the listener."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, asks = await asyncio.open_unix_connection(inner)
        except OSError:
            writer.close()
            return
        # The end of the program cancels it, which asyncio's streams (3.11) would log as a failure.
        with suppress(asyncio.CancelledError):
            await asyncio.gather(_pump(reader, asks), _pump(answers, writer))

    # Not start_unix_server: from Python 3.13 on that one removes the path when it is closed.
    server = await asyncio.start_server(pass_on, sock=listener)
    try:
        yield
    finally:
        server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
