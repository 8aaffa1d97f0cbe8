"""Snapshots through containerd, which keeps namespaces apart and asks the snapshotter's plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cafs.containerd.connection import Connection
from cafs.containerd.errors import AlreadyThereError
from cafs.errors import NotFoundError, StateError
from cafs.proto import introspection_pb2
from cafs.proto import snapshots_pb2 as pb
from cafs.proto.mount_pb2 import Mount

_PREPARE_S = 180.0
"""A remote snapshotter may have to ask a slow registry first."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A snapshot to unpack a layer into."""

    key: str
    mounts: Sequence[Mount]


class Snapshots:
    """The snapshots of one snapshotter."""

    def __init__(self, connection: Connection, snapshotter: str, lease: str | None = None) -> None:
        self.name = snapshotter
        self._connection = connection
        self._service = connection.service(pb.DESCRIPTOR, "Snapshots")
        self._lease = lease

    async def check(self) -> None:
        """Ask whether containerd has this snapshotter at all.

        Raises:
            StateError: it has not, or it could not start; the message says what to do.
        """
        service = self._connection.service(introspection_pb2.DESCRIPTOR, "Introspection")
        request = introspection_pb2.PluginsRequest(filters=[f'id=="{self.name}"'])
        found = await service.call("Plugins", request, "looking for the snapshotter")
        plugins = [p for p in found.plugins if p.type == "io.containerd.snapshotter.v1"]
        if not plugins:
            raise StateError(
                f"containerd at {self._connection.address} has no snapshotter {self.name!r}:"
                " add what 'cafs snapshotter --print-config' prints to its configuration and restart it"
            )
        if plugins[0].HasField("init_err"):
            raise StateError(
                f"containerd's snapshotter {self.name!r} cannot start: {plugins[0].init_err.message}"
            )

    async def exists(self, name: str) -> bool:
        """Whether there is a snapshot of this name or key."""
        try:
            await self._service.call(
                "Stat", pb.StatSnapshotRequest(snapshotter=self.name, key=name), f"snapshot {name}"
            )
        except NotFoundError:
            return False
        return True

    async def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> Prepared | None:
        """Begin a snapshot on top of ``parent``; None when what the labels want is there already.

        Raises:
            NotFoundError: there is no such parent (any more).
        """
        request = pb.PrepareSnapshotRequest(snapshotter=self.name, key=key, parent=parent, labels=labels)
        try:
            answer = await self._service.call(
                "Prepare", request, f"preparing snapshot {key}", lease=self._lease, within_s=_PREPARE_S
            )
        except AlreadyThereError:
            return None
        return Prepared(key, list(answer.mounts))

    async def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Make a prepared snapshot a layer; that another has done so is as good."""
        request = pb.CommitSnapshotRequest(snapshotter=self.name, name=name, key=key, labels=labels)
        try:
            await self._service.call("Commit", request, f"committing snapshot {name}", lease=self._lease)
        except AlreadyThereError:
            await self.remove(key)

    async def remove(self, key: str) -> None:
        """Remove a snapshot that nobody stands on; one that is not there is fine."""
        request = pb.RemoveSnapshotRequest(snapshotter=self.name, key=key)
        try:
            await self._service.call("Remove", request, f"removing snapshot {key}")
        except NotFoundError:
            return
