"""Reads from a Prepare's labels which layer of which image it is for. Pure.

containerd's unpacker sets ``containerd.io/snapshot.ref`` to the chainID that the layer will be committed
under. The other labels come from CRI (``disable_snapshot_annotations = false``), nerdctl and ``cafs pull``:
containerd, pkg/snapshotters/annotations.go. All of them are data only, checked for their form here and for
their truth by the mount server.
"""

from __future__ import annotations

from collections.abc import Mapping

from cafs.core.digest import parse_digest
from cafs.snapshotter.snapshot import LayerSource

TARGET = "containerd.io/snapshot.ref"
IMAGE = "containerd.io/snapshot/cri.image-ref"
MANIFEST = "containerd.io/snapshot/cri.manifest-digest"
LAYER = "containerd.io/snapshot/cri.layer-digest"


def asks_for_layer(labels: Mapping[str, str]) -> bool:
    """Whether they tell which layer is to be unpacked."""
    return all(labels.get(name) for name in (IMAGE, MANIFEST, LAYER, TARGET))


def wanted_layer(labels: Mapping[str, str]) -> LayerSource:
    """The layer that is to be unpacked, of labels that tell.

    Raises:
        UsageError: with something that is no digest.
    """
    digests = (labels[name] for name in (MANIFEST, LAYER, TARGET))
    return LayerSource(labels[IMAGE], *map(parse_digest, digests))
