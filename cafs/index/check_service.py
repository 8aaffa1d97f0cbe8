"""Checks layer indexes in a process of its own, for one that has no time for it.

The other side is ``cafs.fetch.check_process``. A message is one byte with the descriptor of an index file,
its answer is ``ok``, ``bad`` and why, or ``none`` when it could not be read.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from cafs.errors import CafsError, IntegrityError
from cafs.index.layer_index import LayerIndex

IDLE_S = 60.0
"""Who has asked nothing for so long has died."""
MAX_ANSWER_BYTES = 4096


def serve_checks(channel: socket.socket) -> None:
    """Answer until the other side is gone. ``channel`` keeps messages apart (SOCK_SEQPACKET)."""
    # Nothing here multiplies matrices: threads that wait for that would cost a tenth of a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from cafs.index.check import check_index  # noqa: F401, PLC0415 - numpy is loaded before it is needed

    channel.settimeout(IDLE_S)
    while True:
        try:
            _message, descriptors, _flags, _address = socket.recv_fds(channel, 1, 1)
        except TimeoutError:
            return
        if not descriptors:
            return
        try:
            verdict = _verdict(Path(f"/proc/self/fd/{descriptors[0]}"))
        finally:
            os.close(descriptors[0])
        channel.send(verdict.encode(errors="replace")[:MAX_ANSWER_BYTES])


def _verdict(path: Path) -> str:
    from cafs.index.check import check_index  # noqa: PLC0415 - it is loaded: see above

    try:
        with LayerIndex.open(path) as index:
            check_index(index)
    except IntegrityError as e:
        return "bad " + " ".join(str(e).split())
    except CafsError:
        return "none"
    return "ok"
