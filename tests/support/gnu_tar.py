"""Unpacks the layers of an image one upon the other with GNU tar: an oracle that is none of ours.

GNU tar knows nothing of whiteouts. What they hide is removed before their layer is unpacked, and they
are left out then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

_OPAQUE = ".wh..wh..opq"
_WHITEOUT = ".wh."
_LITERALLY = ("--quoting-style=literal", "--absolute-names")
"""Absolute names: else symlinks come last, and change the times of directories that were set already."""
_EXACTLY = (
    *("--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"),
    "--delay-directory-restore",  # umoci's archives come back to directories that they left
)


def unpack_with_gnu_tar(layers: Sequence[Path], root: Path) -> frozenset[bytes]:
    """Unpack the layers, lowest first, into the new directory ``root``.

    Args:
        layers: Archives, none of which has names with a newline or out of the root, or breaks off without
            the blocks at its end, as those of ``umoci insert`` do.
        root: Its parent has to be there.

    Returns:
        The directories whose time says nothing: a layer wrote into them and did not describe them.
    """
    root.mkdir()
    touched: set[PurePosixPath] = set()
    for layer in layers:
        names = _names(layer)
        for name in names:
            _hide(root, PurePosixPath(name))
        without = f"--exclude={_WHITEOUT}*"
        subprocess.run(["tar", "-C", root, *_LITERALLY, *_EXACTLY, without, "-xf", layer], check=True)
        touched |= {parent for name in names for parent in PurePosixPath(name).parents}
        touched -= {PurePosixPath(name) for name in names if name.endswith("/")}
    return frozenset(b"" if path == PurePosixPath() else bytes(path) for path in touched)


def _names(layer: Path) -> list[str]:
    """Those of directories end with a slash."""
    listed = subprocess.run(["tar", *_LITERALLY, "-tf", layer], check=True, capture_output=True).stdout
    return [os.fsdecode(line) for line in listed.split(b"\n")[:-1]]


def _hide(root: Path, name: PurePosixPath) -> None:
    if name.name == _OPAQUE:
        directory = root / name.parent
        for below in directory.iterdir() if directory.is_dir() else ():
            _remove(below)
    elif name.name.startswith(_WHITEOUT):
        _remove(root / name.with_name(name.name.removeprefix(_WHITEOUT)))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
