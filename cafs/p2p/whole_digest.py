"""Computing the digest of a whole content while its pieces arrive, so that little is left at the end."""

from __future__ import annotations

import hashlib

import trio

from cafs.core.digest import Digest, new_hash
from cafs.errors import NotFoundError
from cafs.p2p.stored_task import StoredTask

_AGAIN_S = 0.1


class WholeDigest:
    """Of one download that has to end with a given digest."""

    def __init__(self, task: StoredTask, digest: Digest) -> None:
        self._task = task
        self._digest = digest
        self._hash: hashlib._Hash = new_hash(digest)
        self._next = 0

    async def run(self) -> bool:
        """Wait for all pieces; whether they are the content."""
        while not self._is_at_end():
            if self._next not in self._task.have:
                await self._task.changed()
                continue
            try:
                piece = await self._task.read_piece(self._next)
            except NotFoundError:  # it has rotted, and comes again; or all was deleted, and the download ends
                await trio.sleep(_AGAIN_S)
                continue
            await trio.to_thread.run_sync(self._hash.update, piece)
            self._next += 1
        return self._hash.hexdigest() == self._digest.partition(":")[2]

    def _is_at_end(self) -> bool:
        layout = self._task.layout
        return layout is not None and layout.count is not None and self._next >= layout.count
