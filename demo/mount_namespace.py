"""Runs a program in a mount namespace of its own.

What it mounts nobody else sees or unmounts, and however it ends, the kernel cleans up after it.
"""

from __future__ import annotations

import os
import sys

from demo.process import DemoError

_MARK = "CAFS_DEMO_MOUNTS"


def enter_own_namespace(module: str) -> None:
    """Start ``python -m module`` with the same arguments again, in a namespace; returns in the second one.

    Raises:
        DemoError: not root.
    """
    if os.environ.pop(_MARK, None) == str(os.getpid()):
        return
    if os.geteuid() != 0:
        raise DemoError("mounts, network namespaces and the page cache need root: use root or sudo")
    os.environ[_MARK] = str(os.getpid())
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module, *sys.argv[1:]]
    os.execvp(words[0], words)  # noqa: S606 - a fixed program of the system; exec keeps the pid, so Ctrl-C works
