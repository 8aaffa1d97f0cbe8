"""A plain client of containerd's Snapshots service: our snapshotter's socket, or containerd's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from cafs.proto import snapshots_pb2 as pb
from cafs.proto.services import methods_of

_DEADLINE_S = 60


class RefusedError(Exception):
    """A call ended with a code other than OK."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class SnapshotsClient:
    """One method for each of the service's; all raise ``RefusedError``."""

    def __init__(self, address: Path, *, snapshotter: str = "", namespace: str = "", lease: str = "") -> None:
        self._channel = grpc.insecure_channel(
            f"unix:{address}",
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)],
        )
        self._snapshotter = snapshotter
        headers = {"containerd-namespace": namespace, "containerd-lease": lease}
        self._metadata = [(name, value) for name, value in headers.items() if value]
        self._methods = {method.name: method for method in methods_of(pb.DESCRIPTOR, "Snapshots")}

    def call(self, name: str, /, **fields: Any) -> Any:
        method = self._methods[name]
        kind = self._channel.unary_stream if method.streams_responses else self._channel.unary_unary
        start = kind(method.path, method.serialize_request, method.parse_response)
        request = method.request(snapshotter=self._snapshotter, **fields)
        try:
            answer = start(request, timeout=_DEADLINE_S, metadata=self._metadata)
            return list(answer) if method.streams_responses else answer
        except grpc.RpcError as e:
            raise RefusedError(e.code().name, e.details() or "") from None

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Any]:
        return list(self.call("Prepare", key=key, parent=parent, labels=labels or {}).mounts)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Any]:
        return list(self.call("View", key=key, parent=parent, labels=labels or {}).mounts)

    def mounts(self, key: str) -> list[Any]:
        return list(self.call("Mounts", key=key).mounts)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        self.call("Commit", name=name, key=key, labels=labels or {}, parent=parent)

    def remove(self, key: str) -> None:
        self.call("Remove", key=key)

    def stat(self, key: str) -> Any:
        return self.call("Stat", key=key).info

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str] = ()) -> Any:
        info = pb.Info(name=name, labels=labels)
        return self.call("Update", info=info, update_mask=FieldMask(paths=paths)).info

    def list(self, *filters: str) -> list[Any]:
        return [info for part in self.call("List", filters=filters) for info in part.info]

    def names(self, *filters: str) -> list[str]:
        return [info.name for info in self.list(*filters)]

    def usage(self, key: str) -> tuple[int, int]:
        """Bytes and inodes."""
        answer = self.call("Usage", key=key)
        return answer.size, answer.inodes

    def cleanup(self) -> None:
        self.call("Cleanup")

    def close(self) -> None:
        self._channel.close()
