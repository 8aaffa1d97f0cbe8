"""Makes the machine forget what it read, so that every contender starts from the disk."""

from __future__ import annotations

import os
from pathlib import Path

from demo.process import DemoError


def drop_caches() -> None:
    """Write what is dirty, then drop page cache, dentries and inodes of the whole machine.

    Raises:
        DemoError: not root.
    """
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except PermissionError as e:
        raise DemoError("dropping the page cache needs root: run this as root or through sudo") from e
