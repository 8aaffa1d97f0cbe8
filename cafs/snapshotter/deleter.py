"""Deletes the directories of removed snapshots, behind everybody's back. Owned by ``program``.

The ledger moves them to ``ROOT/d``; what is there belongs to nobody. One thread deletes, so that a big
snapshot holds up nothing else. What cannot be deleted is tried again at the next request.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

from cafs.snapshotter.mounts import Paths

log = logging.getLogger(__name__)


class Deleter:
    """Its methods are called in the loop."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._thread = ThreadPoolExecutor(1, "deleter")
        self._requested = False

    def request(self) -> None:
        """Delete soon what is there now. Any number of requests wait for one run."""
        if not self._requested:
            self._requested = True
            self._thread.submit(self._delete)

    async def finish(self) -> None:
        """Delete, and wait for it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._delete)

    def _delete(self) -> None:
        self._requested = False
        for directory in list(self._paths.deleted.iterdir()):
            try:
                shutil.rmtree(directory)
            except OSError as e:
                log.warning("cannot delete %s of a removed snapshot: %s", directory, e)

    def close(self) -> None:
        """Stop after what is being deleted. The next start goes on with the rest."""
        self._thread.shutdown(cancel_futures=True)
