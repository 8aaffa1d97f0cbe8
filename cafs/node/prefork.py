"""Forks the process that will keep a mount before anything is known of the mount.

Used by ``cafs mount``, first of all: while the command loads the command line's library, reads its
configuration and checks the mount point, the forked process loads what the first answers of a mount need.
Imports nothing but what both sides need.
"""

from __future__ import annotations

import os
import signal
import socket
from types import TracebackType
from typing import Self

# What both sides load anyway is loaded once, before they part.
import cafs.node.take_down
import cafs.oci.reference  # noqa: F401

FOREGROUND, BACKGROUND = b"F", b"B"


class Keeper:
    """The forked process, as the command sees it. A context manager: an error ends the process.

    ``channel`` carries, in this order: from the command the lock's descriptor, with ``FOREGROUND`` or
    ``BACKGROUND`` and the path of the mount's directory; from the first server one JSON line; from the
    command one byte when the mount is complete. The command's death at any moment before that is an end
    of file to the process, which then undoes everything.
    """

    def __init__(self) -> None:
        """Fork it."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._began = False
        self._ended = False
        self.pid = os.fork()
        if self.pid == 0:
            self.channel.close()
            _become_keeper(theirs)
        theirs.close()

    def begin(self, directory: str, lock: int, *, foreground: bool) -> None:
        """Let it mount.

        Args:
            directory: The mount's directory.
            lock: Descriptor of its lock.
            foreground: Log to standard error and stay in the terminal's process group.
        """
        self._began = True
        kind = FOREGROUND if foreground else BACKGROUND
        socket.send_fds(self.channel, [kind + os.fsencode(directory)], [lock])

    def discard(self) -> None:
        """It is not needed, unless ``begin`` was called."""
        if not self._began and not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> None:
        """Until it has ended."""
        if not self._ended:
            os.waitpid(self.pid, 0)
            self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        if error is not None:
            self.discard()
            self.wait()


def _become_keeper(channel: socket.socket) -> None:
    """Never returns."""
    status = 1
    try:
        # Ctrl-C reaches the whole process group; the command alone decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from cafs.node.keeper import keep_when_told  # noqa: PLC0415  in the forked process only

        status = keep_when_told(channel)
    finally:
        os._exit(status)
