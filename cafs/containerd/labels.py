"""The labels that containerd's garbage collection and snapshotters read, as its own client sets them. Pure.

Sources: containerd 1.6, ``images/mediatypes.go`` (ChildGCLabels), ``images/handlers.go``
(SetChildrenMappedLabels), ``pkg/snapshotters/annotations.go`` (AppendInfoHandlerWrapper),
``snapshots/snapshotter.go`` (FilterInheritedLabels), ``labels/validate.go``, ``remotes/docker/handler.go``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cafs.core.digest import Digest
from cafs.oci.descriptor import Descriptor

MAX_LABEL_BYTES = 4096
"""A key and its value together."""
SNAPSHOT_REF = "containerd.io/snapshot.ref"
UNCOMPRESSED = "containerd.io/uncompressed"
LEASE_EXPIRES = "containerd.io/gc.expire"
CRI_IMAGE = ("io.cri-containerd.image", "managed")
"""On images in CRI's namespace that CRI may use."""
_INHERITED = "containerd.io/snapshot/"
_OURS = "containerd.io/snapshot/cri."
_IMAGE_REF = "containerd.io/snapshot/cri.image-ref"
_MANIFEST_DIGEST = "containerd.io/snapshot/cri.manifest-digest"
_LAYER_DIGEST = "containerd.io/snapshot/cri.layer-digest"
_IMAGE_LAYERS = "containerd.io/snapshot/cri.image-layers"


def fits(key: str, value: str) -> bool:
    """Whether containerd takes such a label."""
    return len(key.encode()) + len(value.encode()) <= MAX_LABEL_BYTES


def index_labels(manifests: Sequence[Descriptor]) -> dict[str, str]:
    """On an image index: it keeps its manifests, once they are there."""
    return {f"containerd.io/gc.ref.content.m.{at}": entry.digest for at, entry in enumerate(manifests)}


def manifest_labels(config: Descriptor, layers: Sequence[Descriptor]) -> dict[str, str]:
    """On a manifest: it keeps its config and its layers' blobs, those that are there."""
    labels = {f"containerd.io/gc.ref.content.l.{at}": layer.digest for at, layer in enumerate(layers)}
    return {"containerd.io/gc.ref.content.config": config.digest, **labels}


def snapshot_label(snapshotter: str, chain_id: Digest) -> tuple[str, str]:
    """On a config: it keeps the snapshots of the unpacked image."""
    return f"containerd.io/gc.ref.snapshot.{snapshotter}", chain_id


def source_label(host: str, repository: str, before: str = "") -> tuple[str, str] | None:
    """Which repositories of a host a blob came from: pushes to that host can then mount it.

    Args:
        host: With or without a port.
        repository: To be added.
        before: The label's value so far.

    Returns:
        Key and value; None when that would be too long for a label.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    key = f"containerd.io/distribution.source.{name.strip('[]')}"
    value = ",".join(sorted({*filter(None, before.split(",")), repository}))
    return (key, value) if fits(key, value) else None


def layer_labels(
    image: str, manifest: Digest, layers: Sequence[Descriptor], at: int, chain_id: Digest
) -> dict[str, str]:
    """With which the snapshot of layer ``at`` is prepared: a remote snapshotter finds the layer by them.

    ``cri.image-layers`` lists this layer and those above it, as many as fit.
    """
    layer = layers[at]
    labels = {
        key: value
        for key, value in layer.annotations.items()
        if key.startswith(_INHERITED) and not key.startswith(_OURS) and fits(key, value)
    }
    labels[SNAPSHOT_REF] = chain_id
    labels[_MANIFEST_DIGEST] = manifest
    labels[_LAYER_DIGEST] = layer.digest
    labels[_IMAGE_LAYERS] = _as_many_as_fit(_IMAGE_LAYERS, [entry.digest for entry in layers[at:]])
    if fits(_IMAGE_REF, image):
        labels[_IMAGE_REF] = image
    return labels


def _as_many_as_fit(key: str, digests: Sequence[str]) -> str:
    value = ""
    for digest in digests:
        longer = f"{value},{digest}" if value else digest
        if not fits(key, longer):
            break
        value = longer
    return value


def changed(labels: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Those of ``labels`` that ``before`` lacks or has otherwise."""
    return {key: value for key, value in labels.items() if before.get(key) != value}
