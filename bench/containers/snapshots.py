"""Calls containerd's snapshots service and times each call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from cafs.proto import snapshots_pb2 as pb
from cafs.proto.services import methods_of

CALL_S = 30.0
METHODS = ("Prepare", "Mounts", "Commit", "Remove")
_KEPT = {"containerd.io/gc.root": "bench"}
"""containerd's garbage collection would take what has no label."""


@dataclass(slots=True)
class Snapshots:
    """One service; ``seconds`` gathers what each of ``METHODS`` took."""

    name: str
    """Of the snapshotter, as the service behind the socket knows it."""
    calls: dict[str, Any]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METHODS})

    def round(self, number: int) -> None:
        """The life of two ordinary snapshots: one is committed, the other stands on it."""
        lower, upper, name = f"lower-{number}", f"upper-{number}", f"committed-{number}"
        self._call("Prepare", pb.PrepareSnapshotRequest(key=lower, labels=_KEPT))
        self._call("Commit", pb.CommitSnapshotRequest(name=name, key=lower, labels=_KEPT))
        self._call("Prepare", pb.PrepareSnapshotRequest(key=upper, parent=name, labels=_KEPT))
        self._call("Mounts", pb.MountsRequest(key=upper))
        self._call("Remove", pb.RemoveSnapshotRequest(key=upper))
        self._call("Remove", pb.RemoveSnapshotRequest(key=name))

    def _call(self, method: str, request: Any) -> None:
        request.snapshotter = self.name
        began = time.perf_counter()
        self.calls[method](request, timeout=CALL_S, metadata=(("containerd-namespace", "bench"),))
        self.seconds[method].append(time.perf_counter() - began)


@contextmanager
def open_snapshots(address: Path, name: str) -> Iterator[Snapshots]:
    """A connection that stays open, as containerd's does."""
    with grpc.insecure_channel(f"unix:{address}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        calls = {
            method.name: channel.unary_unary(method.path, method.serialize_request, method.parse_response)
            for method in methods_of(pb.DESCRIPTOR, "Snapshots")
            if method.name in METHODS
        }
        yield Snapshots(name, calls)
