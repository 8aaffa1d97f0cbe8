"""The media types that CAFS reads and writes, and which compression a layer's media type names.

Sources: OCI image-spec v1.1 (media-types.md, manifest.md), Docker image manifest v2 schema 2.
"""

from __future__ import annotations

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
INDEXES = frozenset((OCI_INDEX, DOCKER_LIST))
IMAGE_CONFIGS = frozenset((OCI_CONFIG, DOCKER_CONFIG))
ACCEPTED = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))
"""Value of the Accept header when a manifest is asked for."""

IMAGE_ARTIFACT = "application/vnd.cafs.image.v1"
LAYER_INDEX = "application/vnd.cafs.layer.index.v1+zstd"
LAYER_CHUNKS = "application/vnd.cafs.layer.chunks.v1"
PROFILE_ARTIFACT = "application/vnd.cafs.profile.v1"
PROFILE = "application/vnd.cafs.profile.v1+json"

_TAR_LAYERS = frozenset(
    (
        OCI_LAYER,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    )
)


def is_layer(media_type: str) -> bool:
    """Whether a blob of this type is a tar layer of an image, compressed or not."""
    base, plus, suffix = media_type.partition("+")
    if not plus and base.endswith((".gzip", ".zstd")):  # Docker writes ….diff.tar.gzip, BuildKit ….zstd too
        base, _, suffix = base.rpartition(".")
    return base in _TAR_LAYERS and suffix in {"", "gzip", "zstd"}
