"""Opens the snapshotter's root: one process at a time, with a database that can be believed.

A database that is damaged, or older than the records in the snapshots' directories, is moved aside and made
anew from them; if one of these cannot be read, nothing is started: what is missing there would be missing
from a container's root.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from pathlib import Path

from cafs.errors import IntegrityError, StateError, StorageError
from cafs.snapshotter.metadata import Metadata, Row
from cafs.snapshotter.mounts import Paths
from cafs.snapshotter.records import encode_record, publish_record, read_record, stage_record
from cafs.snapshotter.snapshot import Kind, Layer

log = logging.getLogger(__name__)

DATABASE = "metadata.db"
_IDS_LEFT_FREE = 1000
"""After a rebuild: those of snapshots that were removed last are not known, and must not come again."""


def prepare_root(root: Path) -> Paths:
    """Make the directories of ``Paths``.

    Raises:
        OSError: they cannot be made.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    paths = Paths(root)
    for directory in (paths.mount_points, paths.empty, paths.deleted):
        directory.mkdir(mode=0o700, exist_ok=True)
    paths.empty.chmod(0o755)  # it is the bottom of a view
    return paths


def lock_root(root: Path) -> int:
    """Have the root for this process; the descriptor keeps it.

    Raises:
        StateError: another process has it.
    """
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(descriptor)
        raise StateError(f"another snapshotter has {root}: stop it, or give this one --root") from e
    return descriptor


def open_metadata(paths: Paths) -> Metadata:
    """Open the database for writing; rebuild it if it is damaged.

    Raises:
        StorageError: it is damaged, and so is a record.
    """
    file = paths.root / DATABASE
    try:
        metadata = Metadata(file, create=not paths.numbers())
        try:
            _check_whole(metadata, paths)
        except BaseException:
            metadata.close()
            raise
    except (sqlite3.Error, ValueError, TypeError, IntegrityError) as e:
        if not _says_damage(e):
            raise StorageError(f"cannot open {file}: {e}") from e
        return _rebuild(paths, file, e)
    return metadata


def _says_damage(error: Exception) -> bool:
    """SQLite calls missing tables operational, and so does Python text that is no UTF-8, without a code."""
    if not isinstance(error, sqlite3.OperationalError):
        return True
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR_SHORT_READ} or (
        code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    )


def _check_whole(metadata: Metadata, paths: Paths) -> None:
    """
    Raises:
        sqlite3.Error, ValueError, TypeError, IntegrityError: it is not.
    """
    generations = {row.id: row.generation for row in metadata.rows()}
    metadata.layers()
    last, last_id = metadata.last_generation(), metadata.last_id()
    if max(generations.values(), default=0) > last or max(generations, default=0) > last_id:
        raise IntegrityError("its counters are behind its rows")
    for number in paths.numbers():
        try:
            row, _layer = read_record(paths.record(number), number)
        except FileNotFoundError:
            continue  # nobody was told of it
        except (OSError, IntegrityError):
            is_later = number > last_id
        else:
            is_later = row.generation > generations.get(number, last)
        if is_later:
            raise IntegrityError(f"it is older than the record of snapshot {number}")


def _rebuild(paths: Paths, file: Path, cause: Exception) -> Metadata:
    known = _read_records(paths, file, cause)
    aside = file.with_name(f"{DATABASE}.damaged-{time.time_ns()}")
    for suffix in ("", "-wal", "-shm"):
        part = file.with_name(file.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    beside = file.with_name(f"{DATABASE}.new")
    for suffix in ("", "-wal", "-shm"):
        beside.with_name(beside.name + suffix).unlink(missing_ok=True)
    fresh = Metadata(beside, create=True)
    try:
        with fresh.transaction():
            _fill(fresh, known)
    finally:
        fresh.close()
    beside.rename(file)
    log.warning(
        "%s is damaged (%s): made anew from the records of %d snapshots, the damaged one is %s",
        file,
        cause,
        len(known),
        aside,
    )
    return Metadata(file)


def _read_records(paths: Paths, file: Path, cause: Exception) -> dict[int, tuple[Row, Layer | None]]:
    known = {}
    for number in paths.numbers():
        try:
            known[number] = read_record(paths.record(number), number)
        except FileNotFoundError:
            continue  # nobody was told of it
        except (OSError, IntegrityError) as e:
            raise StorageError(
                f"{file} is damaged ({cause}), and so is the record of snapshot {number} ({e}): bring back a"
                f" copy of the database, or move {paths.snapshot(number)} away and start again: then that"
                " snapshot is lost"
            ) from e
    for number, (row, _layer) in known.items():
        if row.parent is not None and row.parent not in known:
            raise StorageError(
                f"{file} is damaged ({cause}), and snapshot {number} stands on {row.parent}, which is not"
                f" there: bring back a copy of the database, or move {paths.snapshot(number)} away and start"
                " again"
            )
    return known


def _fill(metadata: Metadata, known: dict[int, tuple[Row, Layer | None]]) -> None:
    written: set[int] = set()

    def write(number: int) -> None:
        chain = [number]
        while (parent := known[chain[-1]][0].parent) is not None and parent not in written:
            chain.append(parent)
            if len(chain) > len(known):
                raise StorageError(f"the records of snapshots stand on each other in a circle: {chain[-3:]}")
        for one in reversed(chain):
            row, layer = known[one]
            if one in written:
                continue
            if layer is not None:
                metadata.put_layer(layer)
            metadata.put(row)
            written.add(one)

    for number in sorted(known):
        write(number)
    metadata.skip_ids(_IDS_LEFT_FREE)


def refresh_records(metadata: Metadata, paths: Paths) -> None:
    """Bring the records up to what the database says: one may be behind by what was done last."""
    layers = {layer.number: layer for layer in metadata.layers()}
    for row in list(metadata.rows()):
        layer = layers[row.place.layer] if row.place.layer is not None else None
        record = paths.record(row.id)
        try:
            if record.read_bytes() == encode_record(row, layer).encode():
                continue
        except OSError:
            log.info("the record of snapshot %s is written again", row.info.name)
        try:
            stage_record(record, row, layer)
            publish_record(record)
        except OSError as e:
            log.warning("cannot write the record of snapshot %s: %s", row.info.name, e)


def missing_directories(metadata: Metadata, paths: Paths) -> list[Row]:
    """Snapshots whose files are gone from the disk."""
    return [
        row
        for row in metadata.rows()
        if row.place.layer is None
        and (
            not paths.files(row.id).is_dir()
            or (row.info.kind is Kind.ACTIVE and not paths.work(row.id).is_dir())
        )
    ]
