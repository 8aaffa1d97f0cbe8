"""Puts layers together as images in one OCI layout, a tag for each; blobs are links to the kept ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.images.layers import Built

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REF_NAME = "org.opencontainers.image.ref.name"


def add_image(
    layout: Path, tag: str, layers: Sequence[Built], command: Sequence[str], label: str = ""
) -> None:
    """Write image ``tag``, in place of an older one of that name.

    Two images of the same layers and command are two manifests if ``label`` differs.
    """
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for built in layers:
        with suppress(FileExistsError):
            os.link(built.blob, blobs / built.layer.digest.partition(":")[2])
    config = _put(blobs, _CONFIG, _config(layers, command, label))
    described = [
        {"mediaType": _LAYER, "digest": built.layer.digest, "size": built.layer.size} for built in layers
    ]
    document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": described}
    _name(layout / "index.json", tag, _put(blobs, _MANIFEST, document))


def _config(layers: Sequence[Built], command: Sequence[str], label: str) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [PATH], "Cmd": list(command), "Labels": {"bench": label}},
        "rootfs": {"type": "layers", "diff_ids": [built.layer.diff_id for built in layers]},
        "history": [{"created_by": built.layer.told} for built in layers],
    }


def _put(blobs: Path, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
    """Store a document; its descriptor."""
    data = json.dumps(document, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _name(index: Path, tag: str, descriptor: dict[str, Any]) -> None:
    document: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
    if index.exists():
        document = json.loads(index.read_text())
    others = [one for one in document["manifests"] if one["annotations"][_REF_NAME] != tag]
    document["manifests"] = [*others, descriptor | {"annotations": {_REF_NAME: tag}}]
    beside = index.with_suffix(".new")
    beside.write_text(json.dumps(document, indent=1))
    beside.rename(index)
