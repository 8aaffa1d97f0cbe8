"""Lets this machine's browser look at a service in a namespace: a listener out here, connections in there.

A socket belongs to the namespace that it was made in. So the listener is made outside and inherited by
``python -m demo.relay DESCRIPTOR HOST PORT``, which runs inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_READ_BYTES = 64 << 10
_ENDING_S = 5.0


@contextmanager
def relayed(inside: Sequence[str], host: str, port: int) -> Iterator[int]:
    """The port of this machine's loopback that leads to ``host``, while the context lasts.

    Args:
        inside: Words before a command that runs in the namespace.
        host: An address there.
        port: And its port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = [sys.executable, "-m", "demo.relay", str(listener.fileno()), host, str(port)]
        process = subprocess.Popen([*inside, *words], pass_fds=[listener.fileno()], process_group=0)
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.wait(_ENDING_S)


async def _serve(descriptor: int, host: str, port: int) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection(host, port)
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        writer.close()

    server = await asyncio.start_server(carry, sock=socket.socket(fileno=descriptor))
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
