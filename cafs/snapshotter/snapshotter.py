"""The snapshotter: what each call of containerd's comes to. No gRPC in here.

Decides between the lazy way and the ordinary one, and has layers mounted before anybody is told of a mount
that needs them. All state is in the ledger and in ``LayerMounts``; any number of calls may run at once, and
a call that is cancelled half-way leaves only what Cleanup and the next start tidy up.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cafs.control_socket.protocol import Reason, RefusedError
from cafs.core.log_fields import about
from cafs.errors import CafsError, ExistsError, NotFoundError, StateError, UnavailableError
from cafs.snapshotter.deleter import Deleter
from cafs.snapshotter.disk_usage import disk_usage
from cafs.snapshotter.filters import parse_filters
from cafs.snapshotter.idmap import mapped_root, needs_mapping
from cafs.snapshotter.layer_mounts import LayerMounts, MountedLayers
from cafs.snapshotter.ledger import LayersMissingError, Ledger
from cafs.snapshotter.metadata import Metadata, Row
from cafs.snapshotter.mounts import Paths, plan_mounts
from cafs.snapshotter.remote import IMAGE, LAYER, TARGET, asks_for_layer, wanted_layer
from cafs.snapshotter.rules import check_key, kept_labels
from cafs.snapshotter.snapshot import Info, Kind, Mount, Place, Stack, Usage
from cafs.snapshotter.tally import Tally
from cafs.snapshotter.workers import Workers

log = logging.getLogger(__name__)
_ATTEMPTS = 3
"""A layer that was just restored may be gone again, when the mount server is replaced meanwhile."""
_UNSTEADY = "the mount server's mount is replaced again and again, see the log of cafs mountd"


@dataclass(frozen=True, slots=True)
class Snapshotter:
    """The ten methods of containerd's Snapshots service.

    All raise: NotFoundError, ExistsError, UsageError, StateError as ``ledger`` says; UnavailableError when
    a lazy layer cannot be mounted right now; OSError of the local disk.
    """

    ledger: Ledger
    reader: Metadata
    mounted: MountedLayers
    layers: LayerMounts
    workers: Workers
    deleter: Deleter
    paths: Paths
    index_off: bool
    """See ``plan_mounts``."""
    tally: Tally
    prepared: dict[str, Place] = field(default_factory=dict)
    """Where active snapshots are that were prepared since we began: Commit need not look that up."""

    async def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        """A new active snapshot; or, if the layer that it is for can be had lazily, that, committed.

        Raises:
            ExistsError: the key is taken; or the lazy layer is there now, and nothing needs to be downloaded.
        """
        why_not = await self._prepare_lazily(key, parent, labels) if asks_for_layer(labels) else None
        stack = await self._create(Kind.ACTIVE, key, parent, labels)
        self.prepared[key] = stack.place
        if why_not is not None:
            self._tell_why(labels, why_not)
        return await self._mounts(stack)

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        """A new read-only look at a committed snapshot."""
        return await self._mounts(await self._create(Kind.VIEW, key, parent, labels))

    async def _create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> Stack:
        for _attempt in range(_ATTEMPTS):
            try:
                return await self.workers.ledger(self.ledger.create, kind, key, parent, labels)
            except LayersMissingError as e:
                await self.layers.restore(e.numbers)
        raise UnavailableError(_UNSTEADY)

    async def _prepare_lazily(self, key: str, parent: str, labels: Mapping[str, str]) -> Exception | None:
        """Why it cannot be had lazily.

        Raises:
            ExistsError: it worked, or the key is taken.
            NotFoundError, UsageError: it could not be prepared the ordinary way either.
        """
        target = labels[TARGET]
        if not await self.workers.ledger(self.ledger.is_prepared, target, parent, key, labels):
            try:
                source = wanted_layer(labels)
                async with self.layers.adding():
                    layer = await self.layers.add(source)
                    await self.workers.ledger(self.ledger.add_lazy, target, parent, labels, layer)
            except (CafsError, OSError) as e:
                return e
            self.tally.lazy += 1
        raise ExistsError(f"target snapshot {target}: its layer is mounted lazily")

    def _tell_why(self, labels: Mapping[str, str], error: Exception) -> None:
        """In one line, why a layer goes the ordinary way."""
        self.tally.note_fallback(error)
        usual = isinstance(error, RefusedError) and error.reason in {Reason.NOT_CONVERTED, Reason.DISABLED}
        named = about(image=labels[IMAGE], layer=labels[LAYER])
        log.log(logging.INFO if usual else logging.WARNING, "not lazy: %s %s", error, named)

    async def mounts(self, key: str) -> tuple[Mount, ...]:
        """How an active snapshot or a view is mounted."""
        for _attempt in range(_ATTEMPTS):
            stack = await self.workers.reader(self.reader.stack, key)
            if stack.kind is Kind.COMMITTED:
                raise StateError(f"requested snapshot {key} not active or view")
            missing = self.mounted.missing(stack.layers)
            if not missing:
                return await self._mounts(stack)
            await self.layers.restore(missing)
        raise UnavailableError(_UNSTEADY)

    async def _mounts(self, stack: Stack) -> tuple[Mount, ...]:
        root = mapped_root(stack.labels)
        maps_ids = root is not None and needs_mapping(root, await self._owner_below(stack))
        return plan_mounts(stack, self.paths, index_off=self.index_off, maps_ids=maps_ids)

    async def _owner_below(self, stack: Stack) -> tuple[int, int] | None:
        if not stack.below or stack.below[0].layer is not None:
            return None
        return await self.workers.files(_owner, self.paths.files(stack.below[0].id))

    async def commit(self, name: str, key: str, parent: str, labels: Mapping[str, str]) -> None:
        """Make an active snapshot a committed one, whatever is mounted where."""
        check_key(name, "name")
        labels = kept_labels(labels)
        place, usage = await self._place_and_usage(key)
        await self.workers.ledger(self.ledger.commit, name, key, parent, labels, place=place, usage=usage)

    async def _place_and_usage(self, key: str) -> tuple[Place, Usage]:
        place = self.prepared.pop(key, None)
        if place is not None:
            with suppress(FileNotFoundError):  # it was removed
                return place, await self.workers.files(disk_usage, self.paths.files(place.id))
        row = await self.workers.reader(self.reader.get, key)
        return row.place, await self._count(row) if row.info.kind is Kind.ACTIVE else Usage()

    async def _count(self, row: Row) -> Usage:
        """What the files of an active one take.

        Raises:
            NotFoundError: it was removed meanwhile.
        """
        try:
            return await self.workers.files(disk_usage, self.paths.files(row.id))
        except FileNotFoundError as e:
            now = await self.workers.reader(self.reader.get, row.info.name)  # noqa: ASYNC120 - who is cancelled wants neither
            if now.id == row.id:
                raise
            raise NotFoundError(f"snapshot {row.info.name} was removed") from e

    async def remove(self, key: str) -> None:
        """Take a snapshot away. Its files are deleted after the answer; Cleanup waits for that."""
        await self.workers.ledger(self.ledger.remove, key)
        self.prepared.pop(key, None)
        self.deleter.request()

    async def stat(self, key: str) -> Info:
        """What is known of a snapshot."""
        row = await self.workers.reader(self.reader.get, key)
        return row.info

    async def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Info:
        """Change labels by a field mask."""
        return await self.workers.ledger(self.ledger.update, name, labels, paths)

    async def list(self, filters: Sequence[str]) -> list[Info]:
        """All snapshots that one of the filters lets through, by name."""
        matches = parse_filters(filters)
        return await self.workers.reader(lambda: [r.info for r in self.reader.rows() if matches(r.info)])

    async def usage(self, key: str) -> Usage:
        """What a snapshot takes on the disk by itself."""
        row = await self.workers.reader(self.reader.get, key)
        return await self._count(row) if row.info.kind is Kind.ACTIVE else row.usage

    async def cleanup(self) -> None:
        """Delete what removed snapshots left, and let go of layers that nobody uses."""
        await self.workers.ledger(self.ledger.sweep)
        await self.deleter.finish()
        await self.workers.ledger(self.ledger.hold_reserve)
        await self.layers.release_unused()


def _owner(directory: Path) -> tuple[int, int]:
    known = directory.stat()
    return known.st_uid, known.st_gid
