"""What a mount server shows, as seen from outside, without asking it: for ``cafs explain``.

Reads what it wrote down and the kernel's list of mounts; nothing is looked up below its mount, which may be
the very one that does not answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cafs.control_socket.protocol import is_layer_name
from cafs.fuse.flat import LAYERS
from cafs.fuse.mountinfo import read_mounts
from cafs.node.mount_state import MountedImage, MountedLayer
from cafs.node.mountd.state import LayerRecord, RunDirectory


@dataclass(frozen=True, slots=True)
class Shown:
    """Where to look for failures, and in which layers."""

    journal: Path
    layers: MountedImage
    inside: Path
    """Of a file in a layer; empty: everything."""


def find_shown(path: Path) -> Shown | None:
    """The mount server that ``path`` belongs to: its run directory, or something below a layer's EROFS mount.

    Args:
        path: Absolute.
    """
    for folder in (*reversed(path.parents), path):  # from above: what lies below may be the mount itself
        if (folder / "mountd.json").is_file():
            directory = RunDirectory(folder)
            return _shown(directory, directory.read_layers(), Path())
    found = _layer_mounted_above(path)
    if found is None:
        return None
    directory, name, inside = found
    records = [record for record in directory.read_layers() if record.name == name]
    return _shown(directory, records, inside)


def _shown(directory: RunDirectory, records: list[LayerRecord], inside: Path) -> Shown:
    layers = tuple(
        MountedLayer(index=directory.index_of(record.name), layer_digest=record.layer, diff_id=record.diff_id)
        for record in records
    )
    return Shown(directory.journal, MountedImage(name="", manifest_digest="", layers=layers), inside)


def _layer_mounted_above(path: Path) -> tuple[RunDirectory, str, Path] | None:
    """Run directory and name of the layer whose EROFS ``path`` lies in, and where in it."""
    # The outermost first, and of those at one point the one mounted last on top.
    mounts = sorted(read_mounts(), key=lambda mount: len(Path(mount.point).parts))
    for mount in reversed(mounts):
        point, source = Path(mount.point), Path(mount.source)
        if path.is_relative_to(point):
            folder = source.parent
            named = mount.kind == "erofs" and folder.name == LAYERS.decode() and is_layer_name(source.name)
            return (RunDirectory(folder.parents[1]), source.name, path.relative_to(point)) if named else None
    return None
