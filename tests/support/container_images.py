"""Small images that run: a static busybox, and layers that tests make. Nothing comes from the internet."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from cafs.core.settings import Settings
from cafs.oci.artifact_lookup import find_artifact
from cafs.oci.descriptor import Descriptor, encode_descriptor
from cafs.oci.image import find_image
from cafs.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from cafs.oci.registry.repository import RegistryRepository
from cafs.oci.trust import TrustPolicy
from tests.support.oci import descriptor_of, manifest_bytes
from tests.support.registry import Registry
from tests.support.tars import make_tar, member

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    *("sh", "cat", "ls", "sleep", "echo", "find", "sha256sum", "stat", "id", "mount", "true", "false", "rm"),
    *("mkdir", "cp", "mv", "touch", "chmod", "env", "grep"),
)


def base_layer() -> bytes:
    """A root filesystem with a shell."""
    members = [
        member(name, tarfile.DIRTYPE, mode=0o755)
        for name in ("bin", "dev", "etc", "proc", "sys", "root", "run")
    ]
    members.append(member("tmp", tarfile.DIRTYPE, mode=0o1777))
    members.append(member("bin/busybox", content=BUSYBOX.read_bytes(), mode=0o755))
    members += [
        member(f"bin/{name}", tarfile.LNKTYPE, linkname="bin/busybox", mode=0o755) for name in APPLETS
    ]
    members.append(
        member("etc/passwd", content=b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    )
    members.append(member("etc/group", content=b"root:x:0:\nuser:x:1000:\n"))
    return make_tar(*members)


def data_layer(number: int, size: int = 300_000) -> bytes:
    """A layer with files of pseudo-random bytes under ``data/NUMBER``; it hides a file of the one below."""
    members = [
        member("data", tarfile.DIRTYPE, mode=0o755),
        member(f"data/{number}", tarfile.DIRTYPE, mode=0o755),
    ]
    members += [
        member(f"data/{number}/{name}", content=content_of(number, name, size))
        for name in ("large", "gone-in-the-next")
    ]
    if number:
        members.append(member(f"data/{number - 1}/.wh.gone-in-the-next"))
    return make_tar(*members)


def content_of(number: int, name: str, size: int) -> bytes:
    """The content of a file of ``data_layer``."""
    return hashlib.shake_128(f"{number} {name}".encode()).digest(size)


@dataclass(frozen=True)
class PushedImage:
    """An image in a registry."""

    reference: str
    """``HOST/REPOSITORY:TAG``."""
    target: Descriptor
    manifest: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]

    @property
    def repository(self) -> str:
        """Without host and tag."""
        return self.reference.partition("/")[2].rpartition(":")[0]


def push_container_image(
    registry: Registry,
    repository: str,
    layers: Sequence[bytes],
    *,
    tag: str = "v1",
    command: Sequence[str] = ("/bin/sh",),
    platforms: Sequence[str] = (),
) -> PushedImage:
    """Push an image of these plain tars, gzipped.

    Args:
        platforms: For a multi-platform image: architectures; their manifests differ in the config only.
    """

    async def run() -> PushedImage:
        target = RegistryRepository(registry.host, repository, _settings())
        try:
            reference = f"{registry.host}/{repository}:{tag}"
            packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
            blobs = [descriptor_of(content, OCI_LAYER + "+gzip") for content in packed]
            for blob, content in zip(blobs, packed, strict=True):
                await target.push_blob(content, blob)
            diff_ids = tuple("sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers)
            manifests = []
            for architecture in platforms or ("amd64",):
                config = _config(diff_ids, architecture, command)
                pointer = descriptor_of(config, OCI_CONFIG)
                await target.push_blob(config, pointer)
                content = manifest_bytes(pointer, blobs)
                manifests.append(
                    await target.push_manifest(content, OCI_MANIFEST, None if platforms else tag)
                )
            top = manifests[0]
            if platforms:
                top = await target.push_manifest(_index(manifests, platforms), OCI_INDEX, tag)
            return PushedImage(reference, top, manifests[0], tuple(blobs), diff_ids)
        finally:
            await target.aclose()

    return trio.run(run)


def damage_index(registry: Registry, image: PushedImage, layer: int) -> None:
    """Turn over a bit of the index of one layer of a converted image, behind the registry's back."""

    async def run() -> Path:
        repository = RegistryRepository(registry.host, image.repository, _settings())
        try:
            subject = await find_image(repository, image.manifest.digest)
            found = await find_artifact(repository, subject, TrustPolicy())
            return registry.blob_path(found.artifact.layers[layer].index.digest)
        finally:
            await repository.aclose()

    path = trio.run(run)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _settings() -> Settings:
    return Settings(cache_dir=Path("/nonexistent"), run_dir=Path("/nonexistent"))


def _config(diff_ids: Sequence[str], architecture: str, command: Sequence[str]) -> bytes:
    return json.dumps(
        {
            "os": "linux",
            "architecture": architecture,
            "config": {"Env": ["PATH=/bin"], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
    ).encode()


def _index(manifests: Sequence[Descriptor], platforms: Sequence[str]) -> bytes:
    entries = [
        encode_descriptor(manifest) | {"platform": {"os": "linux", "architecture": architecture}}
        for manifest, architecture in zip(manifests, platforms, strict=True)
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
