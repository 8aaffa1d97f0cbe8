"""A mount namespace of a process's own: what it and its children mount is seen by nobody else.

For pytest's workers, which run beside each other. A container starts with a copy of all mounts that its
maker sees; until it has let go of them, what another worker unmounts meanwhile stays in use.
"""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


def keep_mounts_to_ourselves() -> None:
    """From now on, for the calling thread and all that it starts.

    Raises:
        PermissionError: to somebody who may not mount either.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
