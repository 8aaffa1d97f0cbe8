"""Checks and merges layer indexes in a process of its own, for one that has no time for it.

The other side is ``cafs.fetch.check_process``. A message is a wish with one descriptor: ``CHECK`` and an
index file, or ``MERGE`` and the paths of index files as JSON, with the file to write. The answer is ``ok``,
``bad`` and why, or ``none`` when it could not be done.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cafs.errors import CafsError, IntegrityError
from cafs.index.layer_index import LayerIndex

CHECK, MERGE = b"?", b"+"
IDLE_S = 60.0
"""Who has asked nothing for so long has died."""
MAX_ANSWER_BYTES = 4096
MAX_WISH_BYTES = 64 << 10
"""Paths of hundreds of layers; a third of what a socket takes in one message."""


def encode_merge(indexes: Sequence[Path]) -> bytes:
    """The wish to merge these."""
    return MERGE + json.dumps([str(path) for path in indexes]).encode()


def serve_checks(channel: socket.socket) -> None:
    """Answer until the other side is gone. ``channel`` keeps messages apart (SOCK_SEQPACKET)."""
    # Nothing here multiplies matrices: threads that wait for that would cost a tenth of a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import cafs.index.check  # noqa: PLC0415 - numpy is loaded before it is needed
    import cafs.index.merge_layers  # noqa: F401, PLC0415 - the same

    channel.settimeout(IDLE_S)
    while True:
        try:
            wish, descriptors, _flags, _address = socket.recv_fds(channel, MAX_WISH_BYTES, 1)
        except TimeoutError:
            return
        if not descriptors:
            return
        try:
            verdict = _fulfil(wish, descriptors[0])
        finally:
            os.close(descriptors[0])
        channel.send(verdict.encode(errors="replace")[:MAX_ANSWER_BYTES])


def _fulfil(wish: bytes, descriptor: int) -> str:
    try:
        if wish == CHECK:
            _check(Path(f"/proc/self/fd/{descriptor}"))
        else:
            _merge(json.loads(wish.removeprefix(MERGE)), descriptor)
    except IntegrityError as e:
        return "bad " + " ".join(str(e).split())
    except (CafsError, OSError):  # who asked does it again, and says why it cannot be
        return "none"
    return "ok"


def _check(path: Path) -> None:
    from cafs.index.check import check_index  # noqa: PLC0415 - it is loaded: see above

    with LayerIndex.open(path) as index:
        check_index(index)


def _merge(paths: Sequence[str], descriptor: int) -> None:
    from cafs.index.merge_layers import write_merged  # noqa: PLC0415 - it is loaded: see above

    with ExitStack() as files:
        write_merged(descriptor, [files.enter_context(LayerIndex.open(Path(path))) for path in paths])
