"""What services print, as lines with their names, on one terminal. Belongs to the trio thread.

Nobody waits for the terminal: while it takes nothing (a pager that is not read), lines wait in a bounded
queue, and what does not fit is counted and left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress

import trio

_MOST_WAITING = 2000
_MOST_BYTES = 64 << 10
"""Of one line; and of one read."""
_ONE_WRITE_BYTES = 1024
"""A pipe or terminal that says it can be written takes so much at once."""
_LEVEL = r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)"
_OURS = re.compile(rf"cafs: (?:{_LEVEL}: )?(.*)", re.DOTALL)
_OF_MOUNTD = re.compile(rf"\d{{4}}-\d\d-\d\d \S+ \d+ {_LEVEL} [\w.]+: (.*)", re.DOTALL)
_QUIET = {"DEBUG", "INFO"}


def last_word(line: str) -> str | None:
    """What ended a command, if this is the line that says so."""
    found = _OURS.fullmatch(line)
    return found[2] if found and found[1] is None else None


class Lines:
    """Cuts what comes out of a pipe into lines."""

    def __init__(self, descriptor: int, take: Callable[[str], None]) -> None:
        """
        Args:
            descriptor: The pipe's end; made non-blocking, and closed by ``close``.
            take: Gets each line, without its end.
        """
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._take = take
        self._begun = b""

    async def read_all(self) -> None:
        """Until nobody has the other end any more."""
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            if not self.read_some():
                return

    def read_some(self) -> bool:
        """Take what is there. False: nothing will come any more."""
        try:
            data = os.read(self._descriptor, _MOST_BYTES)
        except BlockingIOError:
            return True
        *whole, self._begun = (self._begun + data).split(b"\n")
        if not data or len(self._begun) > _MOST_BYTES:
            whole, self._begun = [*whole, self._begun], b""
        for line in whole:
            if line:
                self._take(line.decode(errors="replace"))
        return bool(data)

    def close(self) -> None:
        os.close(self._descriptor)


class Printer:
    """The one that writes."""

    def __init__(self, descriptor: int, width: int, quiet: bool) -> None:
        """
        Args:
            descriptor: Where to.
            width: Of the longest name.
            quiet: Warnings and errors only.
        """
        self._descriptor = descriptor
        self._width = width
        self._quiet = quiet
        self._send, self._receive = trio.open_memory_channel[bytes](_MOST_WAITING)
        self._left_out = 0
        self._done = trio.Event()

    def say(self, name: str, line: str) -> None:
        """Have a line written, in its turn."""
        found = _OURS.fullmatch(line) or _OF_MOUNTD.fullmatch(line)
        level, text = (found[1] or "", found[2]) if found else ("", line)
        if self._quiet and level in _QUIET:
            return
        shown = text if level in {"", "INFO"} else f"{level}: {text}"
        try:
            self._send.send_nowait(f"{name:<{self._width}} │ {shown}\n".encode())
        except trio.WouldBlock:
            self._left_out += 1

    async def run(self) -> None:
        """Write, until ``end`` and all is out."""
        async for line in self._receive:
            await self._write(line)
            if self._left_out:
                left, self._left_out = self._left_out, 0
                await self._write(f"{'up':<{self._width}} │ {left} lines left out\n".encode())
        self._done.set()

    async def end(self) -> None:
        """No more lines come; returns when all are out."""
        self._send.close()
        await self._done.wait()

    async def _write(self, data: bytes) -> None:
        while data:
            # A file cannot be waited for, and need not be.
            with suppress(PermissionError):
                await trio.lowlevel.wait_writable(self._descriptor)
            try:
                written = os.write(self._descriptor, data[:_ONE_WRITE_BYTES])
            except BlockingIOError:
                continue
            except OSError:  # whoever looked has left
                return
            data = data[written:]
