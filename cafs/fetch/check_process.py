"""Has indexes checked and merged by another process, beside a mount server that has just begun.

Both need numpy, and loading it keeps Python's one interpreter lock busy for a tenth of a second, just when
the first bytes of a start should come. So a process that has nothing else to do loads it and does the work
(``cafs.index.check_service``). If there is none, it dies or is late, a thread does the work as anywhere else:
nothing is left unchecked. ``check`` and ``merge`` may be called from several tasks.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from cafs.errors import IntegrityError
from cafs.index.check_service import CHECK, MAX_ANSWER_BYTES, MAX_WISH_BYTES, encode_merge

log = logging.getLogger(__name__)

ANSWER_S = 30.0
"""An index of a million files takes a second."""


class CheckProcess:
    """The other process, by our end of a channel to it. For one trio run."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = trio.socket.from_stdlib_socket(channel)
        self._turn = trio.Lock()

    async def check(self, descriptor: int) -> bool:
        """True when the index file was found sound; False when nobody could tell.

        Raises:
            IntegrityError: it is not sound.
        """
        return await self._ask(CHECK, descriptor)

    async def merge(self, descriptor: int, indexes: Sequence[Path]) -> bool:
        """Have these checked index files, lowest layer first, merged into an empty file.

        Returns:
            False when it has to be done otherwise; the file may have been written to.
        """
        wish = encode_merge(indexes)
        return len(wish) <= MAX_WISH_BYTES and await self._ask(wish, descriptor)

    async def _ask(self, wish: bytes, descriptor: int) -> bool:
        answer = b""
        async with self._turn:
            with trio.move_on_after(ANSWER_S), suppress(OSError, trio.ClosedResourceError):
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))
                await self._channel.sendmsg([wish], [rights])
                answer = await self._channel.recv(MAX_ANSWER_BYTES)
            if not answer:
                self.dismiss()  # a late answer would be taken for the next one's
        if answer.startswith(b"bad "):
            raise IntegrityError(answer[4:].decode(errors="replace"))
        if answer != b"ok":
            log.info("the process that checks indexes gave no answer")
        return answer == b"ok"

    def dismiss(self) -> None:
        """It is not needed any more, whoever else holds the channel."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()
