"""A loop device over a file, for kernels whose EROFS cannot be mounted from a file (before 6.12).

Used by ``layers`` only. The device is read-only, reads with direct I/O (no second copy in the page cache)
and clears itself when its mount goes away.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from struct import Struct

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_SECTOR_BYTES = 512

_LOOP_CONFIG = Struct("=II52xI176x64x")
"""loop_config of linux/loop.h: fd, block_size, then loop_info64 (232 bytes; lo_flags at 52), reserved."""
_ATTEMPTS = 16
"""Somebody else may take the free device between the two calls."""


def attach_loop(path: Path) -> tuple[int, str]:
    """Attach ``path`` to a free loop device.

    Returns:
        (descriptor, name): close the descriptor after mounting ``name``; the mount then keeps it.

    Raises:
        OSError: there is no free loop device, or no permission.
    """
    with ExitStack() as opened:
        backing = _open(path, os.O_RDONLY, opened)
        control = _open("/dev/loop-control", os.O_RDWR, opened)
        for attempt in range(1, _ATTEMPTS + 1):
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                flags = _READ_ONLY | _AUTOCLEAR | _DIRECT_IO
                fcntl.ioctl(device, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(backing, _SECTOR_BYTES, flags))
            except OSError as e:
                os.close(device)
                if e.errno != errno.EBUSY or attempt == _ATTEMPTS:
                    raise
            else:
                return device, name
    raise AssertionError("the loop above returns or raises")


def _open(path: Path | str, flags: int, opened: ExitStack) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor
