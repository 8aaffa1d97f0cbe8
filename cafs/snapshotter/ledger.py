"""Carries out what changes snapshots: in the database and, in step with it, in their directories.

Owned by ``service``, which calls it from one thread only, so that every operation is a whole one for all
others. Each leaves things as they were when it fails. Killed at any point, it leaves a directory that
belongs to nobody, at worst: ``sweep`` finds it. The order is: a directory is there before the database
names it, and goes after; its record comes when the database has said it (see ``records``).

The semantics are containerd's (core/snapshots/storage/bolt.go); errors say what it says.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cafs.errors import ExistsError, NotFoundError, StateError, UsageError
from cafs.snapshotter.idmap import mapped_root
from cafs.snapshotter.metadata import Metadata, Row
from cafs.snapshotter.mounts import Paths
from cafs.snapshotter.records import publish_record, stage_record
from cafs.snapshotter.reserve import Reserve
from cafs.snapshotter.rules import check_key, kept_labels, updated_labels
from cafs.snapshotter.snapshot import Info, Kind, Layer, LayerSource, Place, Stack, Usage

log = logging.getLogger(__name__)


class LayersMissingError(StateError):
    """Lazy layers below have to be mounted first."""

    def __init__(self, numbers: frozenset[int]) -> None:
        """Of the layers."""
        super().__init__("lazy layers are not mounted")
        self.numbers = numbers


class Ledger:
    """The one writer."""

    def __init__(
        self,
        metadata: Metadata,
        paths: Paths,
        clock_ns: Callable[[], int],
        missing: Callable[[frozenset[int]], frozenset[int]],
        reserve: Reserve,
    ) -> None:
        """
        Args:
            metadata: A connection of its own.
            paths: Of the snapshotter's root.
            clock_ns: Nanoseconds since 1970.
            missing: Of some layers, those that are not mounted. Must not block.
            reserve: Room for Remove.
        """
        self._metadata = metadata
        self._paths = paths
        self._clock_ns = clock_ns
        self._missing = missing
        self._reserve = reserve

    @contextlib.contextmanager
    def _change(self) -> Iterator[Callable[[Row], None]]:
        """A transaction; what it yields writes a row, of a snapshot whose directory is there."""
        written: list[Row] = []

        def write(row: Row) -> None:
            row = replace(row, generation=self._metadata.last_generation() + 1)
            self._metadata.put(row)
            layer = None if row.place.layer is None else self._metadata.layer(row.place.layer)
            stage_record(self._paths.record(row.id), row, layer)
            written.append(row)

        with self._metadata.transaction():
            yield write
        for row in written:
            try:
                publish_record(self._paths.record(row.id))
            except OSError as e:  # the change is done: the next start writes it
                log.warning("cannot write the record of snapshot %s: %s", row.info.name, e)

    def create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> Stack:
        """Prepare or View, the ordinary way.

        Raises:
            NotFoundError: there is no such parent.
            UsageError: the parent is not committed; key or labels cannot be.
            ExistsError: the key is taken.
            LayersMissingError: of the layers below some are not mounted. Nothing was done.
            OSError: the disk cannot take it.
        """
        check_key(key, "key")
        kept = kept_labels(labels)
        metadata = self._metadata
        made: Path | None = None
        try:
            with self._change() as write:
                below = self._committed_parent(parent)
                if metadata.find(key) is not None:
                    raise ExistsError(f"snapshot {key} already exists")
                chain = metadata.chain(below.id) if below else ()
                if missing := self._missing(frozenset(p.layer for p in chain if p.layer is not None)):
                    raise LayersMissingError(missing)
                owner = mapped_root(kept) or (self._owner(below) if below else None)
                now = self._clock_ns()
                info = Info(key, parent, kind, now, now, kept)
                place = Place(metadata.last_id() + 1)
                row = Row(place, info, Usage(), below.id if below else None, None)
                made = self._paths.snapshot(row.id)
                self._make_directory(row, owner)
                write(row)
        except BaseException:
            if made is not None:
                self.put_away(made)
            raise
        return Stack(row.place, kind, kept, chain)

    def _committed_parent(self, parent: str) -> Row | None:
        if not parent:
            return None
        row = self._metadata.find(parent)
        if row is None:
            raise NotFoundError(f"parent snapshot {parent} does not exist")
        if row.info.kind is not Kind.COMMITTED:
            raise UsageError(f"parent {parent!r} is not a committed snapshot")
        return row

    def _owner(self, parent: Row) -> tuple[int, int]:
        """What root of the layer above has to belong to: as root of the layer below."""
        known = self._paths.tree(parent.place).stat()
        return known.st_uid, known.st_gid

    def _make_directory(self, row: Row, owner: tuple[int, int] | None) -> None:
        directory = self._paths.snapshot(row.id)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            # Of a transaction that did not come to its end: the id is new.
            self.put_away(directory)
            directory.mkdir(mode=0o700)
        if row.place.layer is None:
            files = self._paths.files(row.id)
            files.mkdir(mode=0o755)
            if owner is not None:
                os.chown(files, *owner, follow_symlinks=False)
            if row.info.kind is Kind.ACTIVE:
                self._paths.work(row.id).mkdir(mode=0o711)

    def commit(
        self, name: str, key: str, parent: str, labels: Mapping[str, str], *, place: Place, usage: Usage
    ) -> None:
        """Commit.

        Args:
            name: Of the committed snapshot.
            key: Of the active one.
            parent: To put it on, if it was prepared without any.
            labels: Instead of those it had.
            place: Where it was when its files were counted.
            usage: What they take.

        Raises:
            NotFoundError: there is no such snapshot, or no such parent.
            ExistsError: the name is taken.
            StateError: it is not active, or the parent is not committed.
            UsageError: it has another parent; name or labels cannot be.
        """
        check_key(name, "name")
        kept = kept_labels(labels)
        with self._change() as write:
            row = self._metadata.get(key)
            if row.place != place:
                raise NotFoundError(f"snapshot {key} was removed, and there is a new one")
            if self._metadata.find(name) is not None:
                raise ExistsError(f"committed snapshot {name} already exists")
            if row.info.kind is not Kind.ACTIVE:
                raise StateError(f"snapshot {key!r} is not active")
            now = self._clock_ns()
            below = self._new_parent(row, parent)
            info = Info(name, parent, Kind.COMMITTED, now, now, kept)
            write(replace(row, info=info, parent=below, usage=usage))

    def _new_parent(self, row: Row, parent: str) -> int | None:
        if not parent or parent == row.info.parent:
            return row.parent
        if row.parent is not None:
            raise UsageError(f"cannot change parent of active snapshot {row.info.name!r} on commit")
        below = self._metadata.find(parent)
        if below is None or below.id == row.id:
            raise NotFoundError(f"missing parent {parent!r} of snapshot {row.info.name!r}")
        if below.info.kind is not Kind.COMMITTED:
            raise StateError(f"parent {parent!r} is not committed")
        return below.id

    def remove(self, key: str) -> None:
        """Remove: nobody sees it any more. Its files are put away for deletion. Works on a full disk, too.

        Raises:
            NotFoundError: there is none.
            StateError: there are snapshots on top of it.
        """
        while True:
            try:
                self._remove(key)
            except OSError as e:
                if e.errno != errno.ENOSPC or not self._reserve.release():
                    raise
            else:
                return

    def _remove(self, key: str) -> None:
        with self._metadata.transaction():
            row = self._metadata.get(key)
            if self._metadata.has_children(row.id):
                raise StateError(f"cannot remove snapshot {key} with child")
            self._metadata.delete(row.id)
        try:
            self.put_away(self._paths.snapshot(row.id))
        except OSError as e:  # it is removed: the next sweep finds the directory
            log.warning("cannot put away the directory of removed snapshot %s yet: %s", key, e)

    def hold_reserve(self) -> None:
        """Take the room for Remove again, which may have been used."""
        self._reserve.hold()

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Info:
        """Update of labels by a field mask.

        Raises:
            NotFoundError: there is no such snapshot.
            UsageError: of the name, the mask or a label.
        """
        check_key(name, "name")
        with self._change() as write:
            row = self._metadata.get(name)
            new = updated_labels(row.info.labels, labels, paths, name)
            info = replace(row.info, labels=new, updated_ns=self._clock_ns())
            write(replace(row, info=info))
        return info

    def is_prepared(self, target: str, parent: str, key: str, labels: Mapping[str, str]) -> bool:
        """Whether there is a lazy snapshot of this chainID on this parent already.

        Raises:
            ExistsError, NotFoundError, UsageError: as ``create`` with this key, parent and labels.
        """
        check_key(key, "key")
        kept_labels(labels)
        below = self._committed_parent(parent)
        if self._metadata.find(key) is not None:
            raise ExistsError(f"snapshot {key} already exists")
        return self._metadata.find_target(target, below.id if below else None) is not None

    def put_layer(self, name: str, path: str, source: LayerSource) -> Layer:
        """Write down a layer that the mount server has, before it is mounted."""
        known = self._metadata.find_layer(name)
        if known is not None and (known.path, known.source) == (path, source):
            return known
        with self._metadata.transaction():
            return self._metadata.add_layer(name, path, source)

    def add_lazy(self, target: str, parent: str, labels: Mapping[str, str], layer: Layer) -> None:
        """Add a committed snapshot that is a lazy layer, unless there is one of this chainID on this parent.

        Raises:
            NotFoundError, UsageError: of the parent or a label; see ``create``.
        """
        kept = kept_labels(labels)
        made: Path | None = None
        try:
            with self._change() as write:
                below = self._committed_parent(parent)
                below_id = below.id if below else None
                if self._metadata.find_target(target, below_id) is not None:
                    return
                now = self._clock_ns()
                info = Info(self._free_name(target), parent, Kind.COMMITTED, now, now, kept)
                place = Place(self._metadata.last_id() + 1, layer.number)
                row = Row(place, info, Usage(), below_id, target)
                made = self._paths.snapshot(row.id)
                self._make_directory(row, None)
                write(row)
        except BaseException:
            if made is not None:
                self.put_away(made)
            raise

    def _free_name(self, target: str) -> str:
        """The chainID; another one if it is taken, by the same layer on another parent of equal content."""
        name, count = target, 1
        while self._metadata.find(name) is not None:
            count += 1
            name = f"{target}@{count}"
        return name

    def put_away(self, directory: Path) -> None:
        """Move a directory that belongs to nobody to where it is deleted. One that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            directory.rename(self._paths.deleted / f"{directory.name}-{self._clock_ns()}")

    def sweep(self) -> None:
        """Put away all directories that no snapshot has."""
        known = {row.id for row in self._metadata.rows()}
        for number in self._paths.numbers():
            if number not in known:
                self.put_away(self._paths.snapshot(number))

    def layer(self, number: int) -> Layer:
        """
        Raises:
            NotFoundError: there is none.
        """
        return self._metadata.layer(number)

    def layers(self) -> list[Layer]:
        """All that are written down."""
        return self._metadata.layers()

    def used_layers(self) -> list[Layer]:
        """Layers that a snapshot has."""
        unused = {layer.number for layer in self._metadata.unused_layers()}
        return [layer for layer in self._metadata.layers() if layer.number not in unused]

    def unused_layers(self) -> list[Layer]:
        """Layers that no snapshot has."""
        return self._metadata.unused_layers()

    def set_device(self, number: int, device: int) -> None:
        """Write down on which mount of the mount server a layer is about to be mounted."""
        with self._metadata.transaction():
            self._metadata.put_layer(replace(self._metadata.layer(number), device=device))

    def forget_layer(self, number: int) -> None:
        """Of a layer that is unmounted and that no snapshot has."""
        with self._metadata.transaction():
            self._metadata.delete_layer(number)

    def replace_layer(self, number: int, name: str, path: str) -> int:
        """The image was converted anew: its layer is another file now. The number under which it goes on."""
        with self._change() as write:
            old = self._metadata.layer(number)
            new = self._metadata.add_layer(name, path, old.source)
            for row in self._metadata.users(number):
                write(replace(row, place=replace(row.place, layer=new.number)))
        return new.number
