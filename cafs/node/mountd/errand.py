"""Has another process look at a path in our own mount, which the mount server must never do itself.

A server that waited for an answer of its own mount would wait for ever. The process is the system's ``stat``:
it inherits nothing, and should the server be killed meanwhile, the next one answers it.
"""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import trio

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0


async def have_looked_up(path: Path) -> None:
    """Make the kernel ask for this name, and so forget it when it is no longer there."""
    try:
        with trio.move_on_after(_PATIENCE_S):
            await trio.run_process(
                ["stat", "--", str(path)],
                stdin=b"",
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    except OSError as e:
        log.info("the kernel may keep %s for long: cannot run stat: %s", path.name, e.strerror)
