"""The access profile: in which order a start first touched the chunks of an image. Pure.

Recorded by ``cafs mount --record`` and attached to an image by ``cafs profile push``, or derived from the
image's files by ``cafs convert``; followed by prefetching.
Format (one JSON document, described in docs/formats.md): the diffIDs of the layers, and runs of chunks in
order of first access, each named by the first 8 bytes of its digest. A profile only hints: it is matched
against the image's own index, and whatever it names that is not there is ignored, so neither a hostile
profile nor two digests with one beginning can do more than have a chunk of the image fetched early.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cafs.core.digest import Digest, parse_digest
from cafs.core.json_bound import has_more_values
from cafs.core.readplan import RowTable
from cafs.errors import IntegrityError, UsageError

VERSION = 1
PREFIX_BYTES = 8
MAX_BYTES = 8 << 20
"""Of the document; what is larger is refused before it is parsed."""
MAX_LAYERS = 1024
MAX_STARTS = 1024
MAX_CHUNKS = 1 << 17
"""A recording stops here: 8 GiB in chunks of 64 KiB are no start any more."""
_MAX_VALUES = 3 * MAX_CHUNKS + MAX_LAYERS + 16
"""Of a document with a run for each chunk."""


@dataclass(frozen=True, slots=True)
class Profile:
    """First accesses, in order."""

    layers: tuple[Digest, ...]
    """diffIDs."""
    chunks: tuple[tuple[int, bytes], ...]
    """(number into ``layers``, first 8 bytes of the chunk's digest)."""
    is_derived: bool = False
    """It was read of the image's files, and not recorded. Says its artifact, not the document."""
    starts: int = 0
    """Of so many starts it was learned; 0: it was not."""

    def of_layer(self, diff_id: str) -> tuple[bytes, ...]:
        """The chunks of one layer, in order."""
        return tuple(prefix for layer, prefix in self.chunks if self.layers[layer] == diff_id)


def encode_profile(profile: Profile) -> bytes:
    """The document."""
    runs = [
        {"layer": layer, "chunks": "".join(prefix.hex() for _, prefix in run)}
        for layer, run in groupby(profile.chunks, key=lambda chunk: chunk[0])
    ]
    document: dict[str, Any] = {"version": VERSION, "layers": list(profile.layers), "runs": runs}
    if profile.starts:
        document["starts"] = profile.starts
    return json.dumps(document, indent=1).encode() + b"\n"


def parse_profile(content: bytes) -> Profile:
    """Read a document and check it.

    Raises:
        IntegrityError: it is not a profile, of another version, or too large.
    """
    if len(content) > MAX_BYTES:
        raise IntegrityError(f"profile has {len(content)} bytes, more than {MAX_BYTES}")
    if has_more_values(content, _MAX_VALUES):
        raise IntegrityError(f"profile has more than {_MAX_VALUES} values")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise IntegrityError("not an access profile: no JSON") from e
    try:
        if document["version"] != VERSION:
            raise IntegrityError(f"profile has version {document['version']!r}, expected {VERSION}")
        layers = tuple(parse_digest(_text(layer)) for layer in document["layers"][: MAX_LAYERS + 1])
        chunks = tuple(chunk for run in document["runs"] for chunk in _parse_run(run, len(layers)))
        starts = document.get("starts", 0)
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as e:
        raise IntegrityError("not an access profile: a field is missing, or of a kind that cannot be") from e
    if len(layers) > MAX_LAYERS or len(chunks) > MAX_CHUNKS:
        raise IntegrityError(f"profile names {len(layers)} layers and {len(chunks)} chunks, too many")
    if type(starts) is not int or not 0 <= starts <= MAX_STARTS:
        raise IntegrityError(f"profile was learned of {starts!r:.40} starts, which cannot be")
    return Profile(layers, chunks, starts=starts)


def locate(table: RowTable, prefixes: Iterable[bytes]) -> dict[bytes, int]:
    """The row of each of these chunks that the table has. Reads all of the table."""
    wanted = set(prefixes)
    found: dict[bytes, int] = {}
    for row in range(len(table)):
        prefix = table.row(row).digest[:PREFIX_BYTES]
        if prefix in wanted:
            found.setdefault(prefix, row)
    return found


def _parse_run(run: dict[str, Any], layers: int) -> list[tuple[int, bytes]]:
    layer = run["layer"]
    if type(layer) is not int or not 0 <= layer < layers:
        raise IntegrityError(f"profile names layer {layer!r} of {layers}")
    packed = bytes.fromhex(_text(run["chunks"]))
    if len(packed) % PREFIX_BYTES:
        raise IntegrityError("profile has a chunk name that is cut short")
    return [(layer, packed[i : i + PREFIX_BYTES]) for i in range(0, len(packed), PREFIX_BYTES)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise IntegrityError(f"profile has {value!r:.40} where text belongs")
    return value
