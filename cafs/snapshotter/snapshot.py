"""What is known of a snapshot, in containerd's words (core/snapshots/snapshotter.go). Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """The numbers are those of the gRPC interface."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Info:
    """One snapshot, as Stat and List tell it."""

    name: str
    """The key while it is active or a view, the name it was committed under afterwards."""
    parent: str
    """Name of the committed snapshot below, or empty."""
    kind: Kind
    created_ns: int
    updated_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes on the disk, without its parents."""

    size_bytes: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one snapshot are."""

    id: int
    """Of its directory. Never used again."""
    layer: int | None = None
    """Number of the lazy layer's mount point, where it is lazy. Then the directory holds no files."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A snapshot that can be mounted, and all below it."""

    place: Place
    kind: Kind
    labels: Mapping[str, str]
    below: tuple[Place, ...]
    """The parent, its parent, and so on."""

    @property
    def layers(self) -> frozenset[int]:
        """Numbers of the lazy layers that have to be mounted."""
        return frozenset(place.layer for place in self.below if place.layer is not None)


@dataclass(frozen=True, slots=True)
class LayerSource:
    """How the mount server is told of a layer."""

    image: str
    manifest: str
    digest: str
    chain: str
    """The chainID that it was asked for under; an artifact that says otherwise is not believed."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A lazy layer that is, or is to be, mounted. Snapshots of any number of images share it."""

    number: int
    """Of its mount point. Never used again."""
    name: str
    """Of the mount server: the digest of its index."""
    path: str
    """Of its file, below the mount server's mount."""
    source: LayerSource
    device: int
    """Of the mount server's mount when this was mounted on it: another one there now, and this is dead."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, as containerd makes it."""

    type: str
    source: str
    options: tuple[str, ...]
