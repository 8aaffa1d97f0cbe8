"""The mount server's client for asyncio: used by the snapshotter in grpc.aio's loop.

One connection for each request: on a unix socket that costs a tenth of a millisecond, and a server that was
replaced leaves no stale connection behind. May be called concurrently; any call may be cancelled.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from cafs.control_socket.exchange import Exchange
from cafs.control_socket.patience import (
    ANSWER_PATIENCE_S,
    AWAY_PATIENCE_S,
    describe_absence,
    pause_before,
    should_retry,
)
from cafs.control_socket.protocol import (
    CREDENTIALS_PATH,
    LAYERS_PATH,
    METRICS_PATH,
    STATUS_PATH,
    AddedLayer,
    AddLayer,
    AwayError,
    encode_json,
    layer_path,
    parse_added_layer,
    parse_answer,
    raise_failure,
)

_READ_BYTES = 64 << 10


class MountServerClient:
    """Speaks to the mount server at ``socket_path``.

    Every method raises:
        RefusedError: the server said no; ``reason`` says why.
        AwayError: nobody answers on the socket.
        ProtocolError: what answers is no mount server.
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        patience_s: float = ANSWER_PATIENCE_S,
        away_patience_s: float = AWAY_PATIENCE_S,
    ) -> None:
        """
        Args:
            socket_path: The control socket.
            patience_s: For one call, with all repetitions.
            away_patience_s: For a socket that nobody listens on.
        """
        self._path = str(socket_path)
        self._patience_s = patience_s
        self._away_patience_s = away_patience_s

    async def add_layer(self, wanted: AddLayer) -> AddedLayer:
        """Have a layer shown as a file. Idempotent."""
        return parse_added_layer(parse_answer(await self._ask("POST", LAYERS_PATH, wanted.encode())))

    async def remove_layer(self, name: str) -> None:
        """Take a layer's file away. Idempotent: one that is not there is no error."""
        await self._ask("DELETE", layer_path(name))

    async def layers(self) -> list[dict[str, Any]]:
        """Every layer with what is here of it; the members are in docs/mountd.md."""
        return list(parse_answer(await self._ask("GET", LAYERS_PATH))["layers"])

    async def status(self) -> dict[str, Any]:
        """The server itself: where FUSE is mounted, process ids, memory."""
        return parse_answer(await self._ask("GET", STATUS_PATH))

    async def metrics(self) -> bytes:
        """Prometheus text."""
        return await self._ask("GET", METRICS_PATH)

    async def put_credentials(self, credentials: dict[str, str]) -> None:
        """Hand over what an image is pulled with; the server keeps it in memory only."""
        await self._ask("PUT", CREDENTIALS_PATH, encode_json(credentials))

    async def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        began, attempt = time.monotonic(), 0
        try:
            async with asyncio.timeout(self._patience_s):
                while True:
                    try:
                        status, answer = await self._ask_once(Exchange(method, path, body))
                        break
                    except OSError as e:
                        if not should_retry(e, time.monotonic() - began, self._away_patience_s):
                            raise AwayError(describe_absence(self._path, e)) from e
                        attempt += 1
                        await asyncio.sleep(pause_before(attempt))
        except TimeoutError as e:
            late = f"the mount server on {self._path} did not answer within {self._patience_s:g} s"
            raise AwayError(late) from e
        if not 200 <= status < 300:
            raise_failure(status, answer)
        return answer

    async def _ask_once(self, exchange: Exchange) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(exchange.to_send)
            await writer.drain()
            while (answer := exchange.feed(await reader.read(_READ_BYTES))) is None:
                pass
            return answer
        finally:
            writer.close()
