"""An image whose own manifest names its index artifact, so that the image's digest binds both. Pure.

Nothing else of the manifest changes: config and layers are the same blobs, and whoever does not know
CAFS pulls it as any other image. An image index carries the manifests and the artifacts together, so that
a registry's garbage collection keeps them and tools that copy the whole image copy both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cafs.errors import IntegrityError, UsageError
from cafs.oci import annotations as keys
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.media_types import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    IMAGE_ARTIFACT,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
)
from cafs.oci.referrers import encode_index

_NO_PLATFORM = Platform("unknown", "unknown")
"""What pulls nobody: containerd, Docker and skopeo pass such entries over, as they do attestations."""
_DOCKER_LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": OCI_LAYER + "+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": OCI_LAYER + "+zstd",
}
"""Docker's manifests have no annotations; as an OCI one it has the same blobs under OCI's names."""


def bind_artifact(manifest: bytes, artifact: Descriptor) -> bytes:
    """An image's manifest with the annotations that name ``artifact``; of Docker's kind it becomes OCI's.

    Args:
        manifest: As it is stored; already read once as a ``Manifest``.

    Raises:
        UsageError: a layer of it has no name in OCI's manifests.
    """
    value = json.loads(manifest)
    if value.get("mediaType") == DOCKER_MANIFEST:
        value["config"]["mediaType"] = _renamed(value["config"]["mediaType"], {DOCKER_CONFIG: OCI_CONFIG})
        for layer in value["layers"]:
            layer["mediaType"] = _renamed(layer["mediaType"], _DOCKER_LAYERS)
    value["mediaType"] = OCI_MANIFEST
    bound = {keys.BOUND_DIGEST: artifact.digest, keys.BOUND_SIZE: str(artifact.size)}
    value["annotations"] = dict(sorted(((value.get("annotations") or {}) | bound).items()))
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _renamed(media_type: str, names: dict[str, str]) -> str:
    if media_type not in names:
        raise UsageError(f"a blob of type {media_type!r} cannot be in an OCI manifest: give no --image")
    return names[media_type]


def encode_bound_index(images: Sequence[Descriptor], artifacts: Sequence[Descriptor]) -> bytes:
    """The image index of bound images, each with its platform, and behind them their artifacts.

    Raises:
        IntegrityError: two images are for one platform.
    """
    platforms = [str(image.platform) for image in images]
    if len(set(platforms)) < len(platforms):
        raise IntegrityError(f"several images for one platform: {', '.join(sorted(platforms))}")
    carried = [
        Descriptor(entry.digest, entry.size, OCI_MANIFEST, IMAGE_ARTIFACT, platform=_NO_PLATFORM)
        for entry in dict.fromkeys(artifacts)
    ]
    return encode_index([*images, *carried])
