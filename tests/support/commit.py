"""Makes an image of a changed container, as ``nerdctl commit`` does: through containerd's Diff service."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import trio

from cafs.containerd.connection import CALL_S, Connection, connect
from cafs.containerd.content import Content
from cafs.containerd.images import Images
from cafs.containerd.labels import manifest_labels
from cafs.containerd.lease import lease
from cafs.core.digest import Digest
from cafs.oci.descriptor import Descriptor, encode_descriptor
from cafs.oci.fields import parse_json_object
from cafs.oci.image import Manifest, parse_manifest
from cafs.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from cafs.proto import diff_pb2, snapshots_pb2
from tests.support.container_images import PushedImage
from tests.support.oci import descriptor_of, manifest_bytes


def commit_container(
    address: Path, namespace: str, snapshotter: str, container: str, base: PushedImage, name: str
) -> Descriptor:
    """Make image ``name`` of what ``base`` is and what ``container`` has changed; answers its manifest."""

    async def run() -> Descriptor:
        async with connect(address, namespace) as connection, lease(connection) as held:
            await held.make()
            layer, diff_id = await _changes(connection, snapshotter, container, held.id)
            return await _image(Content(connection, held.id), Images(connection), base, layer, diff_id, name)

    return trio.run(run)


async def _changes(
    connection: Connection, snapshotter: str, container: str, held: str
) -> tuple[Descriptor, str]:
    """The container's changes as a layer in the content store, and its diffID."""
    service = connection.service(snapshots_pb2.DESCRIPTOR, "Snapshots")

    async def ask(method: str, **fields: str) -> Any:
        request = getattr(snapshots_pb2, f"{method}Request")(snapshotter=snapshotter, **fields)
        return await service.call(method.removesuffix("Snapshot"), request, method, lease=held)

    info = (await ask("StatSnapshot", key=container)).info
    below = f"commit-{os.urandom(4).hex()}"
    left = (await ask("ViewSnapshot", key=below, parent=info.parent)).mounts
    try:
        right = (await ask("Mounts", key=container)).mounts
        request = diff_pb2.DiffRequest(left=left, right=right, media_type=OCI_LAYER + "+gzip", ref=below)
        differ = connection.service(diff_pb2.DESCRIPTOR, "Diff")
        made = (await differ.call("Diff", request, "diff", lease=held, within_s=CALL_S)).diff
    finally:
        with trio.move_on_after(CALL_S, shield=True):
            await ask("RemoveSnapshot", key=below)
    layer = Descriptor(Digest(made.digest), made.size, made.media_type)
    labels = await Content(connection).labels(layer)
    assert labels is not None
    return layer, labels["containerd.io/uncompressed"]


async def _image(
    content: Content, images: Images, base: PushedImage, layer: Descriptor, diff_id: str, name: str
) -> Descriptor:
    manifest_content = await content.read(base.manifest)
    assert manifest_content is not None
    old = parse_manifest(manifest_content, base.manifest.media_type, "base")
    assert isinstance(old, Manifest)
    config_content = await content.read(old.config)
    assert config_content is not None
    parse_json_object(config_content, "config", 1 << 20)
    config = json.loads(config_content)
    config["rootfs"]["diff_ids"].append(diff_id)
    new_config = json.dumps(config).encode()
    pointer = descriptor_of(new_config, OCI_CONFIG)
    layers = [*base.layers, layer]
    manifest = manifest_bytes(pointer, layers)
    described = descriptor_of(manifest, OCI_MANIFEST)
    assert json.loads(manifest)["layers"][-1] == encode_descriptor(layer)
    await content.write(pointer, new_config, {})
    await content.write(described, manifest, manifest_labels(pointer, layers))
    await images.put(name, described, {})
    return described
