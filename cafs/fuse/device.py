"""Opens ``/dev/fuse`` and mounts it: directly as root, through ``fusermount3`` as anybody else.

Used by ``supervisor``. The descriptor is close-on-exec and non-blocking; nobody but the supervisor and
its forked server ever holds it.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from cafs.errors import StateError, StorageError
from cafs.fuse.mountinfo import read_mounts
from cafs.fuse.syscalls import MountFlag, UnmountFlag, mount, unmount


class DeviceOptions(NamedTuple):
    """How a FUSE mount is made."""

    name: str
    """Shown as the source in ``/proc/mounts``."""
    allow_other: bool = False
    """Let users other than the one who mounts in (root, or ``user_allow_other`` in fuse.conf)."""
    trusted: bool = False
    """Honour set-id bits and device nodes (root only)."""


def may_mount() -> bool:
    """Whether this process mounts by itself."""
    return os.geteuid() == 0


def mount_device(target: Path, options: DeviceOptions) -> int:
    """Mount a new FUSE connection at ``target`` and return its descriptor.

    Raises:
        StateError: FUSE is not there or refused the mount; the message says what to do.
    """
    descriptor = _mount_as_root(target, options) if may_mount() else _mount_through_helper(target, options)
    os.set_blocking(descriptor, False)
    os.set_inheritable(descriptor, False)
    return descriptor


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted exactly at ``path`` (absolute, resolved), without asking the mount."""
    return device_number(path) is not None


def device_number(mount_point: Path) -> str | None:
    """``MAJOR:MINOR`` of what is mounted at a path (absolute, resolved), without asking it; None: nothing."""
    name = str(mount_point)
    return next((mount.device for mount in reversed(read_mounts()) if mount.point == name), None)


def unmount_device(target: Path, *, lazy: bool = False) -> None:
    """Unmount what ``mount_device`` mounted, if it still is.

    Raises:
        OSError: the kernel refused (EBUSY).
    """
    if not is_mount_point(target):
        return
    if may_mount():
        unmount(target, UnmountFlag.DETACH if lazy else UnmountFlag.NONE)
        return
    command = [_helper(), "-u", "-z", "--", str(target)] if lazy else [_helper(), "-u", "--", str(target)]
    import subprocess  # noqa: PLC0415 - slow to load, and root does without the helper

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(errno.EBUSY, _last_line(done.stderr), str(target))


def raise_readahead(mount_point: Path, kilobytes: int) -> None:
    """Raise the mount's readahead window through sysfs. Only root may, and a mount works without it.

    Raises:
        StorageError: it cannot be.
    """
    knob = Path(f"/sys/class/bdi/{device_number(mount_point)}/read_ahead_kb")
    try:
        knob.write_text(str(kilobytes))
    except OSError as e:
        raise StorageError(f"cannot raise read_ahead_kb: {e.strerror}") from e


def _mount_as_root(target: Path, options: DeviceOptions) -> int:
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise StateError(f"cannot open /dev/fuse ({e.strerror}): load the kernel module fuse") from e
    root_mode = stat.S_IFMT(target.stat().st_mode)
    owner = f"user_id={os.geteuid()},group_id={os.getegid()}"
    data = f"fd={descriptor},rootmode={root_mode:o},{owner},default_permissions"
    if options.allow_other:
        data += ",allow_other"
    flags = MountFlag.RDONLY if options.trusted else MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV
    try:
        mount(options.name, target, "fuse.cafs", flags, data)
    except OSError as e:
        os.close(descriptor)
        raise StateError(f"cannot mount FUSE at {target}: {e.strerror}") from e
    return descriptor


def _helper() -> str:
    import shutil  # noqa: PLC0415 - see above

    helper = shutil.which("fusermount3")
    if helper is None:
        raise StateError("fusermount3 is missing: install the package fuse3 to mount without root")
    return helper


def _mount_through_helper(target: Path, options: DeviceOptions) -> int:
    """``fusermount3`` mounts and sends the descriptor over the socket named by ``_FUSE_COMMFD``."""
    import subprocess  # noqa: PLC0415 - see above

    settings = f"ro,nosuid,nodev,default_permissions,subtype=cafs,fsname={_escape(options.name)}"
    if options.allow_other:
        settings += ",allow_other"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [_helper(), "-o", settings, "--", str(target)],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        descriptor = _receive_descriptor(ours)
        _out, errors = process.communicate()
    if descriptor is None:
        raise StateError(f"cannot mount FUSE at {target}: {_last_line(errors)}")
    return descriptor


def _receive_descriptor(channel: socket.socket) -> int | None:
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    _data, control, _flags, _address = channel.recvmsg(1, room)
    for level, kind, content in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return int(array.array("i", content[: array.array("i").itemsize])[0])
    return None


def _escape(name: str) -> str:
    """A comma ends an option; a backslash quotes it."""
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "fusermount3 said nothing"
