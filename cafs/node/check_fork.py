"""Forks the process that checks the indexes of a new mount, which have to be fetched first.

Used by the first server of a mount (``first_answers``) when it finds that it has nothing to answer with: by
the time that the indexes are here, numpy is loaded in the forked process. Must stay light.
"""

from __future__ import annotations

import os
import signal
import socket

from cafs.index.check_service import serve_checks

_LAST_DESCRIPTOR = 1 << 20


def fork_checker(channel: socket.socket) -> None:
    """Fork it; it ends with the other end of ``channel``, and holds nothing else of ours."""
    if os.fork():
        return
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kept = channel.fileno()
        os.closerange(3, kept)  # the FUSE device above all
        os.closerange(kept + 1, _LAST_DESCRIPTOR)
        serve_checks(channel)
        status = 0
    finally:
        os._exit(status)
