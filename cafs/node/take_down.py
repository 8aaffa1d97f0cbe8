"""Unmounts whatever belongs to one mount, in order. Used by ``keeper`` and ``umount``."""

from __future__ import annotations

import errno
import logging

from cafs.errors import NotFoundError, StateError
from cafs.fuse.device import unmount_device
from cafs.fuse.erofs_mount import unmount_erofs
from cafs.node.mount_state import MountDirectory

log = logging.getLogger(__name__)


def take_down(directory: MountDirectory, *, lazy: bool) -> None:
    """Unmount what the user sees, then what lies below it. What is not mounted is passed over.

    The FUSE mount below the user's is detached lazily: nobody else can have entered it, and the kernel may
    let go of it a moment after EROFS.

    Args:
        directory: State of the mount.
        lazy: Take the tree away from those who still use it.

    Raises:
        StateError: it is in use, and ``lazy`` is not wanted; then nothing was unmounted.
    """
    try:
        request = directory.read_request()
    except NotFoundError:
        return
    except StateError as e:  # after a power cut, say; whoever holds the lock may begin anew
        log.warning("%s; what it says is not known, and is forgotten", e)
        unmount_device(directory.fuse, lazy=True)
        return
    try:
        if request.driver == "erofs":
            unmount_erofs(request.target, lazy=lazy)
            _unmount_fuse(directory, lazy=True)
        else:
            _unmount_fuse(directory, lazy=lazy)
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        raise StateError(
            f"{request.target} is in use: end what runs there or has files open (fuser -vm {request.target}),"
            " or take it away with --force"
        ) from e


def _unmount_fuse(directory: MountDirectory, *, lazy: bool) -> None:
    unmount_device(directory.fuse_target(directory.read_request()), lazy=lazy)
