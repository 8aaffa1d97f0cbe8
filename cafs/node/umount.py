"""Unmounting: what ``cafs umount`` does."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from pathlib import Path

from cafs.errors import StateError, UsageError
from cafs.fuse.device import is_mount_point
from cafs.node.mount_state import MountDirectory
from cafs.node.take_down import take_down

END_TIMEOUT_S = 15.0
"""A server first stores what it had fetched."""
BETWEEN_S = 0.02
"""Before looking again for a supervisor, while a server is taking the place of a killed one."""


def find_target(run_dir: Path, directory: Path) -> Path:
    """The mount point that somebody calls ``directory``: that itself, or where it leads as a symlink.

    Looks at what it leads to only when no image is mounted at the name itself: that would wait for a server
    that hangs.
    """
    absolute = Path(os.path.abspath(directory))  # noqa: PTH100  unlike Path.absolute it takes away ".."
    target = absolute.parent.resolve() / absolute.name
    return target if MountDirectory.of(run_dir, target).path.is_dir() else directory.resolve()


def unmount_image(run_dir: Path, target: Path, *, force: bool) -> None:
    """Unmount ``target`` and wait until its processes have ended.

    Works also when these were killed: what they left is unmounted and removed.

    Args:
        run_dir: Where mounts have their state.
        target: Absolute and resolved.
        force: Take it away from those who still use it.

    Raises:
        UsageError: no image is mounted there.
        StateError: it is in use, or its processes did not end.
    """
    directory = MountDirectory.of(run_dir, target)
    if not directory.path.is_dir():
        other = ": what is there was not mounted by this user, or with another run_dir"
        raise UsageError(f"no image is mounted at {target}{other if is_mount_point(target) else ''}")
    take_down(directory, lazy=force)
    deadline = time.monotonic() + END_TIMEOUT_S
    while directory.path.is_dir():
        with suppress(FileNotFoundError):
            lock = directory.try_lock()
            if lock is not None:
                directory.remove()
                os.close(lock)
                return
        if not _wait_for_supervisor(directory, deadline - time.monotonic()):
            raise StateError(
                f"{target} is unmounted, but something still holds its files open (a program,"
                " or another mount namespace); its server ends with the last of them"
            )


def _wait_for_supervisor(directory: MountDirectory, timeout_s: float) -> bool:
    """False when the time is over. True also when another process supervises by now."""
    if timeout_s <= 0:
        return False
    with suppress(OSError, ValueError):  # no file any more, or no such process: look at the lock again
        descriptor = os.pidfd_open(int(directory.supervisor_pid.read_text()))
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))
        finally:
            os.close(descriptor)
    time.sleep(BETWEEN_S)
    return True
