"""containerd's images: names that keep what they point at."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.field_mask_pb2 import FieldMask

from cafs.containerd.connection import Connection
from cafs.containerd.errors import AlreadyThereError
from cafs.errors import NotFoundError
from cafs.oci.descriptor import Descriptor
from cafs.proto import images_pb2 as pb
from cafs.proto.descriptor_pb2 import Descriptor as Target

_ATTEMPTS = 5
"""Somebody may create and remove the same name meanwhile, but hardly for ever."""


class Images:
    """The images of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._service = connection.service(pb.DESCRIPTOR, "Images")

    async def target(self, name: str) -> str | None:
        """The digest that a name points at; None when there is no such name."""
        try:
            found = await self._service.call("Get", pb.GetImageRequest(name=name), f"image {name}")
        except NotFoundError:
            return None
        return str(found.image.target.digest)

    async def put(self, name: str, target: Descriptor, labels: Mapping[str, str]) -> None:
        """Let ``name`` point at ``target``, and set these labels; others stay."""
        image = pb.Image(
            name=name,
            labels=labels,
            target=Target(media_type=target.media_type, digest=target.digest, size=target.size),
        )
        mask = FieldMask(paths=["target", *(f"labels.{key}" for key in labels)])
        for _ in range(_ATTEMPTS):
            try:
                await self._service.call("Create", pb.CreateImageRequest(image=image), f"image {name}")
            except AlreadyThereError:
                try:
                    request = pb.UpdateImageRequest(image=image, update_mask=mask)
                    await self._service.call("Update", request, f"image {name}")
                except NotFoundError:
                    continue
            return
        raise NotFoundError(f"containerd: image {name}: it is created and removed all the time")
