"""Small made-up images for tests of repositories."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cafs.core.digest import Digest
from cafs.oci.descriptor import EMPTY_CONFIG, EMPTY_JSON, AnyBlob, Descriptor, encode_descriptor
from cafs.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from cafs.oci.repository import Repository
from tests.support.registry import PASSWORD, USER


def descriptor_of(content: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(Digest("sha256:" + hashlib.sha256(content).hexdigest()), len(content), media_type)


async def push_bytes(
    repository: Repository, content: bytes, media_type: str = "application/octet-stream"
) -> Descriptor:
    descriptor = descriptor_of(content, media_type)
    await repository.push_blob(content, descriptor)
    return descriptor


def image_config(layers: Sequence[bytes], architecture: str = "amd64") -> bytes:
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    return json.dumps({"os": "linux", "architecture": architecture, "rootfs": rootfs}).encode()


def manifest_bytes(config: Descriptor, layers: Sequence[Descriptor], **more: Any) -> bytes:
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": encode_descriptor(config),
        "layers": [encode_descriptor(layer) for layer in layers],
        **more,
    }
    return json.dumps(value).encode()


async def push_image(
    repository: Repository, layers: Sequence[bytes], tag: str | None = None, architecture: str = "amd64"
) -> Descriptor:
    """Push an image of uncompressed layers; answers its manifest's descriptor."""
    config = await push_bytes(repository, image_config(layers, architecture), OCI_CONFIG)
    blobs = [await push_bytes(repository, layer, OCI_LAYER) for layer in layers]
    return await repository.push_manifest(manifest_bytes(config, blobs), OCI_MANIFEST, tag)


async def attach_artifact(
    repository: Repository, subject: AnyBlob, kind: str, payload: bytes, **annotations: str
) -> Descriptor:
    """Attach an artifact of one layer to ``subject``."""
    await repository.push_blob(EMPTY_JSON, EMPTY_CONFIG)
    layer = await push_bytes(repository, payload)
    pointer = encode_descriptor(Descriptor(subject.digest, subject.size, OCI_MANIFEST))
    content = manifest_bytes(
        EMPTY_CONFIG, [layer], artifactType=kind, subject=pointer, annotations=annotations
    )
    return await repository.attach(content, OCI_MANIFEST, subject)


def log_in(folder: Path, monkeypatch: pytest.MonkeyPatch, host: str, password: str = PASSWORD) -> None:
    """Write a docker configuration with USER's credentials for ``host``, and make it the one in use."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    folder.joinpath("config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
