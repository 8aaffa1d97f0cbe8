"""Reads how large the parts of an index artifact in an OCI layout are (``docs/formats.md``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.process import DemoError

ARTIFACT_TYPE = "application/vnd.cafs.image.v1"
_INDEX = "application/vnd.cafs.layer.index.v1+zstd"
_CHUNKS = "application/vnd.cafs.layer.chunks.v1"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Sizes in bytes, summed over the layers."""

    index_bytes: int
    """Layer indexes as transferred (zstd)."""
    plain_index_bytes: int
    """Layer indexes as used."""
    chunk_bytes: int
    """Chunk blobs made for this image; those of a dictionary are not among them."""
    blobs: tuple[tuple[str, int], ...]
    """(digest, size) of every blob counted above."""


def read_artifact(layout: Path) -> Artifact:
    """The one artifact in ``layout``.

    Raises:
        DemoError: there is none, or there are several.
    """
    index = json.loads((layout / "index.json").read_text())
    documents = [_blob(layout, descriptor["digest"]) for descriptor in index["manifests"]]
    found = [document for document in documents if document.get("artifactType") == ARTIFACT_TYPE]
    if len(found) != 1:
        raise DemoError(f"{layout} holds {len(found)} index artifacts, expected one")
    layers = found[0]["layers"]
    indexes = [layer for layer in layers if layer["mediaType"] == _INDEX]
    chunks = [layer for layer in layers if layer["mediaType"] == _CHUNKS and not _is_dictionary(layer)]
    blobs = {layer["digest"]: int(layer["size"]) for layer in [*indexes, *chunks]}
    return Artifact(
        index_bytes=sum(int(layer["size"]) for layer in indexes),
        plain_index_bytes=sum(int(layer["annotations"]["dev.cafs.index.size"]) for layer in indexes),
        chunk_bytes=sum({layer["digest"]: int(layer["size"]) for layer in chunks}.values()),
        blobs=tuple(blobs.items()),
    )


def _is_dictionary(layer: dict[str, Any]) -> bool:
    return bool(layer.get("annotations", {}).get("dev.cafs.dictionary") == "true")


def _blob(layout: Path, digest: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
    return document
