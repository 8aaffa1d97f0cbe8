"""Asks the containerd of this machine for its release."""

from __future__ import annotations

import re
import shutil
import subprocess

from cafs.containerd.setup import Release

_ANSWER_S = 10


def installed_release() -> Release | None:
    """None: there is no containerd, or it says nothing we know."""
    program = shutil.which("containerd")
    if program is None:
        return None
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv?(\d+)\.(\d+)\.\d+", said.stdout)
    return Release(int(found[1]), int(found[2])) if found else None
