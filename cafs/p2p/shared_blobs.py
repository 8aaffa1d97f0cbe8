"""The blobs of which other hosts may have chunks of this one: whose swarms it is in, and when it leaves them.

Who has mounted an image asks for no chunk that is in its store, so nobody would know of it after a restart
of the peer. Hence the blobs are written down, and a peer that begins is back in their swarms at once. And an
hour after its last wish a host leaves a swarm only if it is no owner: of the owners, which are few, a host
that comes days later gets what it wants.

Belongs to the trio thread of one ``ChunkExchange``.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from cafs.core.digest import Digest, parse_digest
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.core.swarm.ownership import Turns
from cafs.errors import UsageError
from cafs.p2p.membership import ChunkSwarm, Membership

log = logging.getLogger(__name__)

FIRST_MEMBERS_S = 0.3
"""How long the first request for a blob waits to hear who else mounts it."""
LATER_MEMBERS_S = 0.02
YOUNG_S = 1.0
"""Hosts that begin at once join one after the other, and until all know of all, many have been an owner."""
LEAVE_S = 3600.0
"""A host that is no owner leaves a swarm that it made no use of for so long."""
KEEP_S = 7 * 86400.0
"""An owner does, if nobody asked it either."""
MOST_BLOBS = 4096
"""Of more those go that were not used for longest."""
LOOK_S, GATHER_S = 120.0, 1.0
_USED_S = 3600
"""How exactly it is written down when a blob was used last: the file need not change all the time."""
_MAX_FILE_BYTES, _MOST_S = 8 << 20, 1e12
_GRAIN_BYTES = 16 << 10
"""What the file is filled up to: on a full disk there is room in it for some eighty more."""
_VERSION = 1


class SharedBlob:
    """A blob that this host mounts something of, or did."""

    def __init__(self, blob: BlobRef, repository: str, used_at: float) -> None:
        self.blob = blob
        self.repository = repository
        self.used_at = used_at
        """Asked for by this host or another; trio's clock."""
        self.swarm: ChunkSwarm | None = None
        """As it was last known."""
        self.changed_at = used_at
        """When owners came or went last."""
        self.was_asked = False
        self.turns = Turns()
        """Whose its windows are."""

    def is_meant_by(self, wish: ChunkWish) -> bool:
        """Another host's: of this very blob, whose size bounds where its chunks lie, in this repository."""
        return (self.blob, self.repository) == (wish.blob, wish.repository)

    def note(self, swarm: ChunkSwarm) -> None:
        """This it is now."""
        if self.swarm is None or swarm.owners != self.swarm.owners:
            self.changed_at = trio.current_time()
        self.swarm = swarm

    @property
    def is_young(self) -> bool:
        return trio.current_time() < self.changed_at + YOUNG_S


@dataclass(frozen=True, slots=True)
class WrittenBlob:
    """A shared blob in the file."""

    blob: BlobRef
    repository: str
    used_at_s: float
    """Since 1970, in whole hours."""


class SharedBlobs:
    """See the module."""

    def __init__(self, membership: Membership, path: Path | None = None) -> None:
        """
        Args:
            membership: Of this host in swarms.
            path: Where they are written down; None: nowhere.
        """
        self.membership = membership
        self._path = path
        self._blobs: dict[Digest, SharedBlob] = {}
        self._news = trio.Event()
        self._told = False
        """That they cannot be written down just now."""

    def join(self, blob: BlobRef, repository: str) -> SharedBlob:
        """This host wants something of it."""
        shared = self._blobs.get(blob.digest)
        if shared is None or shared.repository != repository:
            shared = self._blobs[blob.digest] = SharedBlob(blob, repository, trio.current_time())
            self._news.set()
        shared.used_at = trio.current_time()
        return shared

    def used(self, blob: BlobRef) -> SharedBlob | None:
        """Another host wants something of it."""
        shared = self._blobs.get(blob.digest)
        if shared is not None:
            shared.used_at = trio.current_time()
        return shared

    def leave(self, blob: BlobRef) -> None:
        """This host is to have no part in it."""
        if self._blobs.pop(blob.digest, None) is not None:
            self.membership.leave(blob)
            self._news.set()

    async def swarm(self, shared: SharedBlob) -> ChunkSwarm | None:
        """Who shares the blob, as far as is known; None: nobody knows yet, so this host is alone for now."""
        if shared.blob.digest not in self._blobs:
            return shared.swarm  # it was left meanwhile: nobody would leave it again
        with trio.move_on_after(LATER_MEMBERS_S if shared.was_asked else FIRST_MEMBERS_S):
            shared.note(await self.membership.swarm(shared.blob, shared.repository))
        shared.was_asked = True  # no other request waits as long for nothing
        return shared.swarm

    async def run(self) -> None:
        """Be back where this host was, leave what nobody uses, and write down the rest, until cancelled."""
        written: Sequence[WrittenBlob] = ()
        if self._path is not None:
            written = await trio.to_thread.run_sync(read_blobs, self._path)
            await self._take_up(written)
            await self._write(self._path, written)  # from now on it has room
        while True:
            with trio.move_on_after(LOOK_S):
                await self._news.wait()
                await trio.sleep(GATHER_S)
            self._news = trio.Event()
            await self._leave_unused()
            now = self._written()
            if self._path is not None and now != written and await self._write(self._path, now):
                written = now

    async def _write(self, path: Path, blobs: Sequence[WrittenBlob]) -> bool:
        """Whether it worked; else it is tried again at the next look, and told once."""
        try:
            await trio.to_thread.run_sync(write_blobs, path, blobs)
        except OSError as e:
            if not self._told:
                log.warning("%s cannot be written: %s", path, e.strerror)
            self._told = True
            return False
        self._told = False
        return True

    async def _take_up(self, written: Iterable[WrittenBlob]) -> None:
        for one in written:
            idle_s = max(time.time() - one.used_at_s, 0)
            if idle_s >= KEEP_S or one.blob.digest in self._blobs:
                continue
            shared = SharedBlob(one.blob, one.repository, trio.current_time() - idle_s)
            self._blobs[one.blob.digest] = shared
            with trio.move_on_after(
                LATER_MEMBERS_S
            ):  # joined it has by then; a reader may wait for the answer
                shared.note(await self.membership.swarm(shared.blob, shared.repository))

    async def _leave_unused(self) -> None:
        by_use = sorted(self._blobs.values(), key=lambda shared: -shared.used_at)
        for place, shared in enumerate(by_use):
            if place < MOST_BLOBS and not await self._may_leave(shared):
                continue
            if self._blobs.get(shared.blob.digest) is shared:  # it was not joined anew from elsewhere
                self.leave(shared.blob)

    async def _may_leave(self, shared: SharedBlob) -> bool:
        if LEAVE_S < _idle_s(shared) <= KEEP_S:
            swarm = await self.swarm(shared)
            if swarm is None or swarm.self_owner:
                return False
        return _idle_s(shared) > LEAVE_S

    def _written(self) -> list[WrittenBlob]:
        now, today = trio.current_time(), time.time()
        return [
            WrittenBlob(shared.blob, shared.repository, (today - now + shared.used_at) // _USED_S * _USED_S)
            for shared in self._blobs.values()
        ]


def _idle_s(shared: SharedBlob) -> float:
    return trio.current_time() - shared.used_at


def read_blobs(path: Path) -> Sequence[WrittenBlob]:
    """What was written down; nothing of a file that is damaged, for others will ask again."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise ValueError(f"it is of version {document['version']}")
        return [_parse(row) for row in document["blobs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError) as e:
        log.warning("forgetting whose chunks were shared: %s cannot be read: %s", path, e)
        return []


def _parse(row: dict[str, Any]) -> WrittenBlob:
    size, repository, used_at_s = row["size"], row["repository"], row["used_at"]
    if type(size) is not int or size < 0 or not isinstance(repository, str):
        raise ValueError("a row is no blob")
    if type(used_at_s) not in {int, float} or not 0 <= used_at_s < _MOST_S:  # no NaN either
        raise ValueError("a row says no time")
    return WrittenBlob(BlobRef(parse_digest(row["digest"]), size), repository, float(used_at_s))


def write_blobs(path: Path, blobs: Sequence[WrittenBlob]) -> None:
    """Replace the file; on a full disk, write over it. One that is torn then is as none.

    Raises:
        OSError: neither can be done. That costs no more than a place in some swarms.
    """
    rows = [
        {
            "digest": one.blob.digest,
            "size": one.blob.size,
            "repository": one.repository,
            "used_at": one.used_at_s,
        }
        for one in blobs
    ]
    text = json.dumps({"version": _VERSION, "blobs": rows}).encode()
    new = path.with_suffix(".new")
    try:
        new.write_bytes(text.ljust(-(-len(text) // _GRAIN_BYTES) * _GRAIN_BYTES))
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        if not _write_over(path, text):
            raise


def _write_over(path: Path, text: bytes) -> bool:
    """Whether there was room in the blocks that the file has."""
    try:
        with path.open("r+b", buffering=0) as file:
            room = path.stat().st_size
            return len(text) <= room and file.write(text.ljust(room)) == room
    except OSError:
        return False
