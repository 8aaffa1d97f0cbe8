"""The record in each snapshot's directory: what the database knows of it, for the day when that is lost.

The database is the truth. A record is written beside while a change is made, and takes its place when the
change is on the disk, before it is answered. So a record is never ahead of the database that belongs to it,
at most behind by what was done last; one that is ahead has a database that is an old copy; and a directory
without a record was never announced. JSON, one object: ``snapshot`` (id, key, parent's id, kind, times,
usage, labels, target, generation), ``layer`` of a lazy one, and the ``checksum`` of these two. Version 1
had neither generation nor checksum.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from cafs.errors import IntegrityError
from cafs.snapshotter.metadata import Row
from cafs.snapshotter.snapshot import Info, Kind, Layer, LayerSource, Place, Usage

_VERSION = 2


def stage_record(path: Path, row: Row, layer: Layer | None) -> None:
    """Write a record beside the one that is there.

    Raises:
        OSError: the disk cannot take it.
    """
    _beside(path).write_text(encode_record(row, layer))


def publish_record(path: Path) -> None:
    """Let the one that was written beside take its place.

    Raises:
        OSError: the disk cannot take it.
    """
    _beside(path).replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def read_record(path: Path, snapshot: int) -> tuple[Row, Layer | None]:
    """The record of a snapshot; see ``parse_record``.

    Raises:
        IntegrityError: it is not one, or of another snapshot.
        OSError: it cannot be read, or there is none.
    """
    row, layer = parse_record(path.read_bytes())
    if row.id != snapshot:
        raise IntegrityError(f"it is of snapshot {row.id}")
    return row, layer


def encode_record(row: Row, layer: Layer | None) -> str:
    """The record's text."""
    info = row.info
    snapshot = {
        "id": row.id,
        "key": info.name,
        "parent": row.parent,
        "kind": info.kind.name,
        "created_ns": info.created_ns,
        "updated_ns": info.updated_ns,
        "size_bytes": row.usage.size_bytes,
        "inodes": row.usage.inodes,
        "labels": dict(info.labels),
        "target": row.target,
        "generation": row.generation,
    }
    fields = layer and _layer_fields(layer)
    checksum = _checksum(snapshot, fields)
    return json.dumps({"version": _VERSION, "snapshot": snapshot, "layer": fields, "checksum": checksum})


def _checksum(snapshot: Any, layer: Any) -> int:
    return zlib.crc32(json.dumps([snapshot, layer]).encode())


def _layer_fields(layer: Layer) -> dict[str, Any]:
    source = layer.source
    return {
        "number": layer.number,
        "name": layer.name,
        "path": layer.path,
        "image": source.image,
        "manifest": source.manifest,
        "digest": source.digest,
        "chain": source.chain,
    }


def parse_record(text: str | bytes) -> tuple[Row, Layer | None]:
    """Read a record. The parent's name in it is empty: only its id is kept.

    Raises:
        IntegrityError: it is not one.
    """
    try:
        document = json.loads(text)
        if document["version"] not in {1, _VERSION}:
            raise IntegrityError(f"a record of version {document['version']!r} is not known here")
        known = _checksum(document["snapshot"], document["layer"])
        if document["version"] == _VERSION and document["checksum"] != known:
            raise IntegrityError("its checksum is wrong")
        layer = _parse_layer(document["layer"]) if document["layer"] is not None else None
        return _parse_row(document["snapshot"], layer), layer
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise IntegrityError(f"not the record of a snapshot: {type(e).__name__}: {e}") from e


def _parse_row(fields: dict[str, Any], layer: Layer | None) -> Row:
    labels = fields["labels"]
    if not all(isinstance(text, str) for pair in labels.items() for text in pair):
        raise ValueError("labels")
    info = Info(
        name=_text(fields["key"]),
        parent="",
        kind=Kind[fields["kind"]],
        created_ns=int(fields["created_ns"]),
        updated_ns=int(fields["updated_ns"]),
        labels=labels,
    )
    parent, target = fields["parent"], fields["target"]
    return Row(
        Place(int(fields["id"]), layer.number if layer else None),
        info,
        Usage(int(fields["size_bytes"]), int(fields["inodes"])),
        int(parent) if parent is not None else None,
        _text(target) if target is not None else None,
        int(fields.get("generation", 0)),
    )


def _parse_layer(fields: dict[str, Any]) -> Layer:
    source = LayerSource(*(_text(fields[name]) for name in ("image", "manifest", "digest", "chain")))
    return Layer(int(fields["number"]), _text(fields["name"]), _text(fields["path"]), source, device=0)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
