"""Answers FUSE requests before trio is loaded: whatever is in memory, one request after the other.

Used by the first server of a mount (``cafs.node.first_answers``), which lives for a tenth of a second. It
stops at the first request that has to wait for bytes. That one, unanswered, and all behind it are left to the
next server, exactly as if this one had been killed (docs/takeover.md): so only for kernels that send requests
again.
"""

from __future__ import annotations

import errno
import os
import select

from cafs.fuse import protocol
from cafs.fuse.answers import answer
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.tree import FileTree

_PASSING = frozenset({errno.ENOENT, errno.EINTR})
"""A reader gave up between asking and being read."""


def answer_from_memory(descriptor: int, tree: FileTree, outstanding: Outstanding) -> None:
    """Answer until a request cannot be, or the mount is gone.

    Args:
        descriptor: ``/dev/fuse``, mounted, non-blocking, FUSE_INIT answered.
        tree: What is shown; its ``read`` is not used.
        outstanding: Holds the buffer that requests are read into.

    Raises:
        Exception: a request failed. It was not answered: the next server will say why.
    """
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    buffer = outstanding.buffer
    while True:
        try:
            message = buffer[: os.readv(descriptor, [buffer])]
        except BlockingIOError:
            readable.poll()
            continue
        except OSError as e:
            if e.errno in _PASSING:
                continue
            return
        pieces = answer(tree, protocol.parse_request(message))
        if pieces is None:
            continue
        if not pieces:
            return
        try:
            os.writev(descriptor, pieces)
        except OSError as e:
            if e.errno not in _PASSING:
                return
