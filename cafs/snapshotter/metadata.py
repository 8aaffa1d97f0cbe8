"""What the snapshotter knows, in SQLite: snapshots, and the lazy layers that they share.

Used by ``ledger``, which owns the one connection that writes, and for reading by a second one; each is used
by one thread at a time. A transaction is on the disk when it ends (WAL, synchronous=FULL): containerd's own
database says the same thing then, and must never know more than this one.

Ids of snapshots and numbers of layers are never used again, so that nothing old is ever taken for something
new. Each change of a snapshot has a number, too, its generation: the record in its directory bears the same,
so that an old copy of the database is known by it. Each row has a checksum, which every read compares.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cafs.errors import IntegrityError, NotFoundError, StorageError
from cafs.snapshotter.snapshot import Info, Kind, Layer, LayerSource, Place, Stack, Usage

SCHEMA_VERSION = 2
_SCHEMA = """\
CREATE TABLE layer (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,      -- digest of its index
  path TEXT NOT NULL,             -- of its file, below the mount server's mount
  -- how to ask for it again:
  image TEXT NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL, chain TEXT NOT NULL,
  device INTEGER NOT NULL,        -- of the mount it was mounted on
  checksum INTEGER NOT NULL
);
CREATE TABLE snapshot (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  parent INTEGER REFERENCES snapshot (id),
  kind INTEGER NOT NULL,
  created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL,
  size_bytes INTEGER NOT NULL, inodes INTEGER NOT NULL,
  labels TEXT NOT NULL,           -- JSON
  target TEXT,                    -- of a lazy one: the chainID that was asked for
  layer INTEGER REFERENCES layer (number),
  generation INTEGER NOT NULL,    -- of its last change
  checksum INTEGER NOT NULL
);
CREATE INDEX snapshot_parent ON snapshot (parent);
CREATE INDEX snapshot_layer ON snapshot (layer);
CREATE UNIQUE INDEX snapshot_target ON snapshot (target, ifnull(parent, 0)) WHERE target IS NOT NULL;
CREATE TABLE generation (last INTEGER NOT NULL)"""
_STATEMENTS = _SCHEMA.split(";\n")
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_ROW = ("id", "key", "parent", "kind", "created_ns", "updated_ns", "size_bytes", "inodes", "labels", "target",
        "layer", "generation")  # fmt: skip
_LAYER = ("number", "name", "path", "image", "manifest", "digest", "chain", "device")
"""What the checksums are of."""
_INFO = """
SELECT s.id, s.key, p.key AS parent_key, s.kind, s.created_ns, s.updated_ns, s.size_bytes, s.inodes, s.labels,
  s.parent, s.target, s.layer, s.generation, s.checksum
FROM snapshot AS s LEFT JOIN snapshot AS p ON p.id = s.parent
"""
_CHAIN = """
WITH RECURSIVE chain (depth, id, parent, layer) AS (
  SELECT 0, id, parent, layer FROM snapshot WHERE id = ?
  UNION ALL
  SELECT depth + 1, s.id, s.parent, s.layer FROM chain JOIN snapshot AS s ON s.id = chain.parent
)
SELECT id, layer FROM chain ORDER BY depth
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One snapshot as it is stored."""

    place: Place
    info: Info
    usage: Usage
    parent: int | None
    target: str | None
    """Of a lazy one: the chainID that was asked for."""
    generation: int = 0
    """Of its last change. Later changes of any snapshot have higher ones."""

    @property
    def id(self) -> int:
        return self.place.id


class Metadata:
    """One connection to the database."""

    def __init__(self, path: Path, *, readonly: bool = False, create: bool = False) -> None:
        """
        Args:
            path: Of the database.
            readonly: Another connection writes.
            create: One that is empty or not there is as it should be.

        Raises:
            sqlite3.DatabaseError, UnicodeDecodeError: it is damaged, or an older CAFS made it.
            StorageError: a newer CAFS made it, or the disk cannot hold it.
        """
        mode = "ro" if readonly else "rwc"
        self._db = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=10,
        )
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA foreign_keys = ON")
            if not readonly:
                self._prepare(path, create=create)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path, *, create: bool) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StorageError(f"{path} was made by a newer CAFS: install that, or one that is newer")
        if (said := self._db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"integrity_check says: {said}")
        if version != SCHEMA_VERSION:
            if version or not create:
                raise sqlite3.DatabaseError("an older CAFS made it" if version else "it is empty")
            with self.transaction():
                for statement in _STATEMENTS:
                    self._db.execute(statement)
                self._db.execute("INSERT INTO generation VALUES (0)")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        known = [row["sql"] for row in self._db.execute("SELECT sql FROM sqlite_master")]
        if not set(_STATEMENTS) <= set(known):
            raise sqlite3.DatabaseError("its tables are others")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; on the disk when it ends.

        Raises:
            OSError: the disk is full.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back after some errors
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as e:
            if getattr(e, "sqlite_errorcode", None) in _FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the database") from e
            raise

    def find(self, key: str) -> Row | None:
        found = self._db.execute(_INFO + " WHERE s.key = ?", (key,)).fetchone()
        return _row(found) if found else None

    def get(self, key: str) -> Row:
        """
        Raises:
            NotFoundError: there is none.
        """
        row = self.find(key)
        if row is None:
            raise NotFoundError(f"snapshot {key} does not exist")
        return row

    def rows(self) -> Iterator[Row]:
        """All snapshots, by name."""
        return map(_row, self._db.execute(_INFO + " ORDER BY s.key"))

    def chain(self, snapshot: int) -> tuple[Place, ...]:
        """The snapshot and all below it."""
        return tuple(Place(row["id"], row["layer"]) for row in self._db.execute(_CHAIN, (snapshot,)))

    def stack(self, key: str) -> Stack:
        """
        Raises:
            NotFoundError: there is none.
        """
        row = self.get(key)
        return Stack(row.place, row.info.kind, row.info.labels, self.chain(row.id)[1:])

    def has_children(self, snapshot: int) -> bool:
        return self._db.execute("SELECT 1 FROM snapshot WHERE parent = ?", (snapshot,)).fetchone() is not None

    def find_target(self, target: str, parent: int | None) -> str | None:
        """Name of the lazy snapshot of this chainID on this parent."""
        found = self._db.execute(
            "SELECT key FROM snapshot WHERE target = ? AND ifnull(parent, 0) = ?", (target, parent or 0)
        ).fetchone()
        return found["key"] if found else None

    def put(self, row: Row) -> None:
        """Write a snapshot, new or changed. Its parent counts by its id."""
        info, usage = row.info, row.usage
        values = (
            row.id,
            info.name,
            row.parent,
            int(info.kind),
            info.created_ns,
            info.updated_ns,
            usage.size_bytes,
            usage.inodes,
            json.dumps(dict(info.labels)),
            row.target,
            row.place.layer,
            row.generation,
        )
        self._write("snapshot", "id", _ROW, values)
        self._db.execute("UPDATE generation SET last = max(last, ?)", (row.generation,))

    def _write(self, table: str, key: str, columns: tuple[str, ...], values: tuple[object, ...]) -> None:
        columns, values = (*columns, "checksum"), (*values, _checksum(values))
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
        self._db.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
            f" ON CONFLICT ({key}) DO UPDATE SET {changes}",
            values,
        )

    def delete(self, snapshot: int) -> None:
        self._db.execute("DELETE FROM snapshot WHERE id = ?", (snapshot,))

    def last_id(self) -> int:
        """The highest id that a snapshot ever had."""
        return self._last("snapshot")

    def _last(self, table: str) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return row["seq"] if row else 0

    def last_generation(self) -> int:
        """Of the latest change."""
        last: int = self._db.execute("SELECT last FROM generation").fetchone()["last"]
        return last

    def skip_ids(self, count: int) -> None:
        """Leave that many ids and numbers out, after the highest in use."""
        for table in ("snapshot", "layer"):
            self._db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (count, table))

    def layers(self) -> list[Layer]:
        return [_layer(row) for row in self._db.execute("SELECT * FROM layer ORDER BY number")]

    def layer(self, number: int) -> Layer:
        row = self._db.execute("SELECT * FROM layer WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise NotFoundError(f"layer {number} does not exist")
        return _layer(row)

    def find_layer(self, name: str) -> Layer | None:
        row = self._db.execute("SELECT * FROM layer WHERE name = ?", (name,)).fetchone()
        return _layer(row) if row else None

    def unused_layers(self) -> list[Layer]:
        query = "SELECT * FROM layer WHERE number NOT IN (SELECT layer FROM snapshot WHERE layer IS NOT NULL)"
        return [_layer(row) for row in self._db.execute(query)]

    def add_layer(self, name: str, path: str, source: LayerSource) -> Layer:
        """Write down how a layer is had; a known one keeps its number."""
        known = self.find_layer(name)
        if known is None:
            layer = Layer(self._last("layer") + 1, name, path, source, device=0)
        else:
            layer = replace(known, path=path, source=source)
        self.put_layer(layer)
        return layer

    def put_layer(self, layer: Layer) -> None:
        """Write a layer, new or changed."""
        source = layer.source
        values = (layer.number, layer.name, layer.path, source.image, source.manifest, source.digest,
                  source.chain, layer.device)  # fmt: skip
        self._write("layer", "number", _LAYER, values)

    def delete_layer(self, number: int) -> None:
        self._db.execute("DELETE FROM layer WHERE number = ?", (number,))

    def users(self, layer: int) -> list[Row]:
        """The snapshots that are this layer."""
        return [_row(row) for row in self._db.execute(_INFO + " WHERE s.layer = ?", (layer,))]


def _checksum(values: tuple[object, ...]) -> int:
    return zlib.crc32(json.dumps(values).encode())


def _verify(row: sqlite3.Row, columns: tuple[str, ...]) -> None:
    """
    Raises:
        IntegrityError: it is not as it was written.
    """
    if _checksum(tuple(row[name] for name in columns)) != row["checksum"]:
        raise IntegrityError(f"the database is damaged: row {row[columns[0]]} is not as it was written")


def _row(row: sqlite3.Row) -> Row:
    _verify(row, _ROW)
    info = Info(
        name=row["key"],
        parent=row["parent_key"] or "",
        kind=Kind(row["kind"]),
        created_ns=row["created_ns"],
        updated_ns=row["updated_ns"],
        labels=json.loads(row["labels"]),
    )
    usage = Usage(row["size_bytes"], row["inodes"])
    return Row(Place(row["id"], row["layer"]), info, usage, row["parent"], row["target"], row["generation"])


def _layer(row: sqlite3.Row) -> Layer:
    _verify(row, _LAYER)
    source = LayerSource(row["image"], row["manifest"], row["digest"], row["chain"])
    return Layer(row["number"], row["name"], row["path"], source, row["device"])
