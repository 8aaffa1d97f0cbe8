"""Whether a thread is being killed. Used by ``session`` to tell a fatal interrupt from any other."""

from __future__ import annotations

import signal
from pathlib import Path

_SIGKILL_BIT = 1 << (signal.SIGKILL - 1)


def is_being_killed(pid: int) -> bool:
    """True when SIGKILL is pending for the thread, as for every thread of a group that is to die.

    The kernel turns every fatal signal into a pending SIGKILL of each thread. A thread in another pid
    namespace (``pid`` 0) or gone already is not known to be killed.
    """
    if pid <= 0:
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith(b"SigPnd:"):
            return bool(int(line[7:], 16) & _SIGKILL_BIT)
    return False
