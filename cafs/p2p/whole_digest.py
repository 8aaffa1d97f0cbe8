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
        self._seen: list[bytes | None] = []
        """Digests of the pieces that were hashed, from the first on."""

    async def run(self) -> bool:
        """Wait for all pieces; whether they are the content.

        A piece may turn out to be another one than it was: nobody could say so while no scheduler answered.
        """
        while True:
            if self._is_at_end():
                if not self._was_corrected():
                    break
                self._hash, self._seen = new_hash(self._digest), []
            number = len(self._seen)
            if number not in self._task.have:
                await self._task.changed()
                continue
            digest = self._task.digest(number)
            try:
                piece = await self._task.read_piece(number)
            except NotFoundError:  # it has rotted, and comes again; or all was deleted, and the download ends
                await trio.sleep(_AGAIN_S)
                continue
            await trio.to_thread.run_sync(self._hash.update, piece)
            self._seen.append(digest)
        return self._hash.hexdigest() == self._digest.partition(":")[2]

    def _is_at_end(self) -> bool:
        layout = self._task.layout
        return layout is not None and layout.count is not None and len(self._seen) >= layout.count

    def _was_corrected(self) -> bool:
        return any(self._task.digest(number) != digest for number, digest in enumerate(self._seen))
