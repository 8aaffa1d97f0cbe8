"""mount(2), umount2(2), statx(2) and prctl(2) through the C library.

Used by ``device``, ``layers`` and ``supervisor``, and by ``cafs.snapshotter`` and ``cafs.up``.

Errors come as ``OSError`` with the kernel's errno; whoever knows what was mounted puts it into words.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from enum import IntFlag
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 2, 36
_AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_BYTES = 256
_STATX_DEVICE = struct.Struct("=136xII")
"""stx_dev_major and stx_dev_minor of struct statx."""


class MountFlag(IntFlag):
    """``MS_*`` of mount(2)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4


class UnmountFlag(IntFlag):
    """``MNT_*`` and ``UMOUNT_*`` of umount2(2)."""

    NONE = 0
    DETACH = 2
    NOFOLLOW = 8


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: Path | str | None) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), None if path is None else str(path))


def mount(source: str, target: Path | str, kind: str, flags: MountFlag, options: str) -> None:
    """mount(2).

    Raises:
        OSError: the kernel refused; E2BIG when the options do not fit its page.
    """
    if len(options) >= os.sysconf("SC_PAGE_SIZE"):
        raise OSError(errno.E2BIG, "mount options do not fit a page", str(target))
    result = _libc().mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), os.fsencode(options)
    )
    _check(result, target)


def unmount(target: Path | str, flags: UnmountFlag = UnmountFlag.NONE) -> None:
    """umount2(2), never following a symlink.

    Raises:
        OSError: EBUSY while in use, EINVAL when it is no mount point.
    """
    _check(_libc().umount2(os.fsencode(target), int(flags | UnmountFlag.NOFOLLOW)), target)


def device_of(path: Path) -> int:
    """Number of the device that ``path`` lies on, without asking a FUSE server: one that hangs cannot block.

    Raises:
        OSError: there is no such path.
    """
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    _check(_libc().statx(_AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, 0, buffer), path)
    return os.makedev(*_STATX_DEVICE.unpack_from(buffer))


def stop_parent_death_signal(number: signal.Signals) -> None:
    """Undo ``signal_on_parent_death``, which survives an exec, if it was for this signal."""
    asked = ctypes.c_int()
    _check(_libc().prctl(_PR_GET_PDEATHSIG, ctypes.byref(asked), 0, 0, 0), None)
    if asked.value == number:
        _check(_libc().prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(0), 0, 0, 0), None)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Ask for a signal when the process that forked us ends (``PR_SET_PDEATHSIG``)."""
    _check(_libc().prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0), None)


def become_subreaper() -> None:
    """Be the parent of all our descendants whose own parent has died (``PR_SET_CHILD_SUBREAPER``)."""
    _check(_libc().prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), None)
