"""Unmounts the FUSE mount of a mount server. Used by ``keeper`` and ``stop``."""

from __future__ import annotations

import errno

from cafs.errors import StateError
from cafs.fuse.device import is_mount_point, unmount_device
from cafs.node.mountd.state import RunDirectory


def take_down(directory: RunDirectory, *, lazy: bool) -> None:
    """Unmount, as often as something is mounted there.

    Args:
        directory: Of the mount server.
        lazy: Also while layers are mounted; who reads them gets errors when the servers have ended.

    Raises:
        StateError: layers are mounted, and ``lazy`` is not wanted.
    """
    try:
        while is_mount_point(directory.fuse):
            unmount_device(directory.fuse, lazy=lazy)
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise StateError(f"cannot unmount {directory.fuse}: {e.strerror}") from e
        raise StateError(
            "layers are in use: end the containers and remove their images first, or take the files away from"
            " them with --force"
        ) from e
