"""Which containers run from which lazy layers: our snapshots and containerd's containers put together.

Used by ``cafs ps``. Asks the snapshotter itself for its snapshots, because containerd shows those of one
namespace only and not by the names that lead to layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cafs.containerd.connection import connect
from cafs.proto import containers_pb2, snapshots_pb2

_CALL_S = 20.0
_LAYER = "containerd.io/snapshot/cri.layer-digest"
_TARGET = "containerd.io/snapshot.ref"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One of ours."""

    name: str
    """``NAMESPACE/NUMBER/KEY``, or the chainID of a lazy one."""
    parent: str
    layer: str
    """Digest of the layer's blob, where it is a lazy one; else empty."""


@dataclass(frozen=True, slots=True, order=True)
class Container:
    """One of containerd's, that runs from a snapshot of ours."""

    namespace: str
    id: str
    image: str
    snapshot_key: str


def users_of_layers(
    snapshots: Iterable[Snapshot], containers: Iterable[Container]
) -> dict[str, list[Container]]:
    """For each layer the containers whose snapshot lies on it, in order. Pure."""
    by_name = {snapshot.name: snapshot for snapshot in snapshots}
    by_key: dict[tuple[str, str], Snapshot] = {}
    for snapshot in by_name.values():
        namespace, _, rest = snapshot.name.partition("/")
        by_key[namespace, rest.partition("/")[2]] = snapshot
    found: dict[str, list[Container]] = {}
    for container in sorted(containers):
        at = by_key.get((container.namespace, container.snapshot_key))
        for layer in _layers_below(at, by_name):
            found.setdefault(layer, []).append(container)
    return found


def _layers_below(snapshot: Snapshot | None, by_name: Mapping[str, Snapshot]) -> list[str]:
    layers: dict[str, None] = {}
    for _ in range(len(by_name)):  # parents form no circle, but they come from another process
        if snapshot is None:
            break
        if snapshot.layer:
            layers[snapshot.layer] = None
        snapshot = by_name.get(snapshot.parent)
    return list(layers)


async def find_users(containerd: Path, snapshotter: Path, plugin: str) -> dict[str, list[Container]]:
    """See ``users_of_layers``.

    Args:
        containerd: Its socket.
        snapshotter: Our snapshotter's.
        plugin: What containerd calls our snapshotter.

    Raises:
        CafsError: one of them does not answer.
    """
    snapshots = await _list_snapshots(snapshotter)
    namespaces = sorted({s.name.partition("/")[0] for s in snapshots if s.name.count("/") > 1})
    containers: list[Container] = []
    for namespace in namespaces:
        containers += await _list_containers(containerd, namespace, plugin)
    return users_of_layers(snapshots, containers)


async def _list_snapshots(address: Path) -> Sequence[Snapshot]:
    async with connect(address, "") as connection:
        service = connection.service(snapshots_pb2.DESCRIPTOR, "Snapshots")
        request = snapshots_pb2.ListSnapshotsRequest()
        answers = await service.collect("List", request, f"listing snapshots at {address}", within_s=_CALL_S)
    return [
        Snapshot(info.name, info.parent, info.labels.get(_LAYER, "") if _TARGET in info.labels else "")
        for answer in answers
        for info in answer.info
    ]


async def _list_containers(address: Path, namespace: str, plugin: str) -> list[Container]:
    async with connect(address, namespace) as connection:
        service = connection.service(containers_pb2.DESCRIPTOR, "Containers")
        request = containers_pb2.ListContainersRequest()
        answer = await service.call("List", request, "listing containers", within_s=_CALL_S)
    return [
        Container(namespace, found.id, found.image, found.snapshot_key)
        for found in answer.containers
        if found.snapshotter == plugin
    ]
