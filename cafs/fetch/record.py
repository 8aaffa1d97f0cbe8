"""Recording an access profile (``cafs mount --record``).

First accesses are noted in memory; about once a second, while there are new ones, the whole profile is
written beside its file and renamed, so that the file is a valid profile at every moment and kill -9 loses a
second of it. A server that takes a mount over goes on with the file it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import trio

from cafs.core.digest import Digest
from cafs.core.profile import MAX_CHUNKS, PREFIX_BYTES, Profile, encode_profile, parse_profile
from cafs.errors import IntegrityError, StorageError, UsageError

log = logging.getLogger(__name__)

SAVE_EVERY_S = 1.0


class Recorder:
    """Writes one profile file.

    Raises:
        UsageError: the file is there and is no profile of these layers.
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path, layers: Sequence[Digest]) -> None:
        self._path = path
        self._layers = tuple(dict.fromkeys(layers))
        self._numbers: dict[str, int] = {layer: number for number, layer in enumerate(self._layers)}
        self._chunks: dict[tuple[int, bytes], None] = dict.fromkeys(self._continued())
        self._saved = -1
        self._broken = False
        self.save()
        if self._broken:
            raise StorageError(f"{path} cannot be written")

    def note(self, layer: str, digest: bytes) -> None:
        """A chunk was read for the first time."""
        if len(self._chunks) < MAX_CHUNKS:
            self._chunks[self._numbers[layer], digest[:PREFIX_BYTES]] = None

    async def run(self) -> None:
        """Save now and then, until cancelled."""
        while True:
            await trio.sleep(SAVE_EVERY_S)
            await trio.to_thread.run_sync(self.save)

    def save(self) -> None:
        """Write the file if there is anything new. A disk that refuses costs one warning."""
        count = len(self._chunks)
        if count == self._saved or self._broken:
            return
        beside = self._path.with_name(self._path.name + ".new")
        try:
            # tuple() of a dict is one step of the interpreter: ``note`` in the trio thread cannot disturb it.
            beside.write_bytes(encode_profile(Profile(self._layers, tuple(self._chunks))))
            beside.replace(self._path)
            self._saved = count
        except OSError as e:
            self._broken = True
            log.warning("the access profile can no longer be written to %s: %s", self._path, e)

    def _continued(self) -> tuple[tuple[int, bytes], ...]:
        try:
            profile = parse_profile(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except OSError as e:
            raise StorageError(f"{self._path}: {e}") from e
        except IntegrityError as e:
            raise UsageError(f"{self._path} is there and is not an access profile: {e}") from e
        if profile.layers != self._layers:
            raise UsageError(f"{self._path} is there and is the access profile of another image")
        return profile.chunks
