"""Decides how a snapshot is mounted. Pure.

As containerd's overlayfs snapshotter (plugins/snapshots/overlay/overlay.go), but for two things. A view is
an overlay even over a single layer: there a bind mount would take over ``nosuid,nodev`` of a lazy layer and
show whiteouts of an ordinary one as devices. And where a lazy layer takes part, overlayfs's own attributes
in it are not honoured: a directory stands for itself, a file has its own data.

Paths are short on purpose: all options have to fit the page that mount(2) has for them, with 128 layers.
containerd makes them relative to their common directory when they would not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cafs.snapshotter.idmap import id_maps
from cafs.snapshotter.snapshot import Kind, Mount, Place, Stack

_FOREIGN_ATTRIBUTES = ("redirect_dir=nofollow", "metacopy=off")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are below the snapshotter's root.

    ROOT/           0700
      ID/fs         files of an ordinary snapshot: its difference to its parent
      ID/work       overlayfs's own, of active ones
      ID/record     what the database knows of it, for the day when that is lost
      m/NUMBER      mount points of lazy layers
      e             an empty directory
      d/            what is about to be deleted
      g             grpc's socket
      reserve       room on the disk for Remove
    """

    root: Path

    def numbers(self) -> list[int]:
        """Ids of the snapshots that have a directory."""
        return [int(entry.name) for entry in self.root.iterdir() if entry.name.isdecimal()]

    def snapshot(self, number: int) -> Path:
        return self.root / str(number)

    def files(self, number: int) -> Path:
        return self.root / str(number) / "fs"

    def work(self, number: int) -> Path:
        return self.root / str(number) / "work"

    def record(self, number: int) -> Path:
        return self.root / str(number) / "record"

    @property
    def mount_points(self) -> Path:
        return self.root / "m"

    def mount_point(self, layer: int) -> Path:
        return self.mount_points / str(layer)

    @property
    def empty(self) -> Path:
        return self.root / "e"

    @property
    def deleted(self) -> Path:
        return self.root / "d"

    @property
    def socket(self) -> Path:
        return self.root / "g"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    def tree(self, place: Place) -> Path:
        """The directory that is this snapshot's layer of an overlay."""
        return self.files(place.id) if place.layer is None else self.mount_point(place.layer)


def plan_mounts(stack: Stack, paths: Paths, *, index_off: bool, maps_ids: bool) -> tuple[Mount, ...]:
    """The mounts that show an active snapshot or a view.

    Args:
        stack: What is to be shown.
        paths: Where it is.
        index_off: The kernel knows ``index=off``: without it, one lower directory cannot be shared by two
            overlays.
        maps_ids: They are to show the files with the owners that the stack's labels map them to.
    """
    mapping = id_maps(stack.labels) if maps_ids else ()
    if not stack.below:
        access = "ro" if stack.kind is Kind.VIEW else "rw"
        return (Mount("bind", str(paths.files(stack.place.id)), (*mapping, access, "rbind")),)
    options = [*mapping]
    if index_off:
        options.append("index=off")
    lower = [str(paths.tree(place)) for place in stack.below]
    if stack.kind is Kind.ACTIVE:
        options.append(f"workdir={paths.work(stack.place.id)}")
        options.append(f"upperdir={paths.files(stack.place.id)}")
    elif len(lower) == 1:
        lower.append(str(paths.empty))  # the kernel wants two where nothing can be written
    options.append("lowerdir=" + ":".join(lower))
    if stack.layers:
        options.extend(_FOREIGN_ATTRIBUTES)
    return (Mount("overlay", "overlay", tuple(options)),)
