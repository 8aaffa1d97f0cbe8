"""The mount server as the snapshotter sees it: a client that does not wait again for somebody who is away.

A mount server that is being started anew is worth waiting for once, and not for each layer of an image:
without lazy layers everything still works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from cafs.control_socket.client import MountServerClient
from cafs.control_socket.protocol import AddedLayer, AddLayer, AwayError

_T = TypeVar("_T")


class MountServer:
    """The errors are those of ``MountServerClient``."""

    def __init__(self, socket_path: Path) -> None:
        self._patient = MountServerClient(socket_path)
        self._impatient = MountServerClient(socket_path, away_patience_s=0)
        self._was_away = False

    async def add_layer(self, wanted: AddLayer) -> AddedLayer:
        """Have a layer shown as a file. Idempotent."""
        return await self._ask(lambda client: client.add_layer(wanted))

    async def remove_layer(self, name: str) -> None:
        """Take a layer's file away. Idempotent."""
        await self._ask(lambda client: client.remove_layer(name))

    async def layers(self) -> list[dict[str, Any]]:
        """Every layer that it shows."""
        return await self._ask(lambda client: client.layers())

    async def _ask(self, call: Callable[[MountServerClient], Awaitable[_T]]) -> _T:
        try:
            answer = await call(self._impatient if self._was_away else self._patient)
        except AwayError:
            self._was_away = True
            raise
        self._was_away = False
        return answer
