"""containerd unpacks a layer's blob into mounts: its Diff service."""

from __future__ import annotations

from collections.abc import Sequence

from cafs.containerd.connection import Connection
from cafs.core.digest import Digest
from cafs.errors import IntegrityError
from cafs.oci.descriptor import Descriptor
from cafs.proto import diff_pb2 as pb
from cafs.proto.descriptor_pb2 import Descriptor as Target
from cafs.proto.mount_pb2 import Mount

_APPLY_S = 3600.0
"""Unpacking the largest layer on a slow disk."""


async def apply_layer(
    connection: Connection, layer: Descriptor, mounts: Sequence[Mount], diff_id: Digest, lease: str
) -> None:
    """Unpack a layer whose blob is in the content store.

    Raises:
        IntegrityError: its plain bytes are not what the image's config says.
    """
    service = connection.service(pb.DESCRIPTOR, "Diff")
    target = Target(media_type=layer.media_type, digest=layer.digest, size=layer.size)
    request = pb.ApplyRequest(diff=target, mounts=mounts)
    answer = await service.call(
        "Apply", request, f"unpacking layer {layer.digest}", lease=lease, within_s=_APPLY_S
    )
    if answer.applied.digest != diff_id:
        raise IntegrityError(
            f"layer {layer.digest} unpacks to {answer.applied.digest}, the image's config says {diff_id}"
        )
