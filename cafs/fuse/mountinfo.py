"""The kernel's list of mounts, read without asking any of them: /proc/self/mountinfo, proc(5).

The kernel writes blanks, tabs, newlines and backslashes in names as octal numbers, and every other byte as it
is: whatever else a library takes for the end of a line is part of a name, and names need not be text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One mount, as this process's namespace has it."""

    device: str
    """``MAJOR:MINOR``."""
    point: str
    kind: str
    """Type of its filesystem."""
    source: str


def read_mounts() -> list[Mount]:
    """All of them; of two at one point the later one is seen."""
    return parse_mounts(Path("/proc/self/mountinfo").read_bytes())


def parse_mounts(content: bytes) -> list[Mount]:
    """Read a whole mountinfo."""
    found = []
    for line in content.split(b"\n")[:-1]:
        before, _, after = line.partition(b" - ")
        fields, (kind, source, *_) = before.split(b" "), after.split(b" ")
        found.append(Mount(fields[2].decode(), _name(fields[4]), _name(kind), _name(source)))
    return found


def _name(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), field))
