"""What a service tells its supervisor: that it is ready, and descriptors to keep for its successor.

The other end of ``cafs.daemon.service_manager``. One socket for each service: so nobody has to be asked who
speaks. Belongs to the trio thread.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from cafs.errors import StorageError

_MOST_BYTES = 4096
_MOST_DESCRIPTORS = 32
"""FileDescriptorStoreMax of our units."""


class Notices:
    """A service's socket, and what it has us keep."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            StorageError: the socket cannot be made.
        """
        self.path = path
        self.kept: dict[str, int] = {}
        """Descriptors, by name."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(os.fspath(path))
        except OSError as e:
            self._socket.close()
            raise StorageError(f"cannot make {path}: {e.strerror or e}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self.forget()
        self.path.unlink(missing_ok=True)

    async def hear_ready(self) -> None:
        """Listen until the service says that it is ready; what it says before is obeyed."""
        while "READY=1" not in await self._hear():
            pass

    async def hear(self) -> None:
        """Listen for ever."""
        while True:
            await self._hear()

    async def _hear(self) -> list[str]:
        await trio.lowlevel.wait_readable(self._socket)
        try:
            message, descriptors, _flags, _address = socket.recv_fds(
                self._socket, _MOST_BYTES, _MOST_DESCRIPTORS, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return []
        for number in descriptors:
            os.set_inheritable(number, False)
        lines = message.decode(errors="replace").splitlines()
        self._obey(lines, descriptors)
        return lines

    def _obey(self, lines: Sequence[str], descriptors: list[int]) -> None:
        name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "")
        if "FDSTOREREMOVE=1" in lines and name in self.kept:
            os.close(self.kept.pop(name))
        if "FDSTORE=1" in lines and descriptors and name:
            if name in self.kept:
                os.close(self.kept.pop(name))
            if len(self.kept) < _MOST_DESCRIPTORS:
                self.kept[name] = descriptors.pop(0)
        for number in descriptors:
            os.close(number)

    def forget(self) -> None:
        """Keep nothing any more."""
        while self.kept:
            os.close(self.kept.popitem()[1])
