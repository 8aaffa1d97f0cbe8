"""What of CAFS this machine can run: which extras are installed, and whether we are root."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from cafs.up.plan import MANAGER, NAMES, SCHEDULER, SNAPSHOTTER

_EXTRAS = {SNAPSHOTTER: "snapshotter", SCHEDULER: "snapshotter", MANAGER: "manager"}
"""By service: the extra that it needs."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([\w.,-]+)\])?[^;]*;.*extra == ['\"]([\w-]+)['\"]")


def left_out(without: Collection[str], *, is_root: bool) -> list[tuple[str, str]]:
    """Services that do not run here, and why.

    Args:
        without: Names of those that are not wanted.
        is_root: The snapshotter mounts filesystems.
    """
    found = []
    for name in NAMES:
        extra = _EXTRAS.get(name)
        if name in without:
            found.append((name, "not wanted"))
        elif extra is not None and (missing := next(missing_libraries(extra), None)) is not None:
            found.append((name, f"{missing} is missing: pip install 'cafs[{extra}]'"))
        elif name == SNAPSHOTTER and not is_root:
            found.append((name, "it mounts filesystems, which needs root"))
    return found


def missing_libraries(extra: str) -> Iterator[str]:
    """What an extra names, by what was installed with CAFS itself, and is not here.

    Nothing where CAFS is not installed: then a command says itself what it lacks.
    """
    try:
        lines = requires("cafs") or []
    except PackageNotFoundError:
        return
    for line in lines:
        found = _REQUIREMENT.match(line)
        if found is None or found[3] != extra:
            continue
        if found[1] == "cafs":
            for inner in (found[2] or "").split(","):
                yield from missing_libraries(inner)
            continue
        try:
            version(found[1])
        except PackageNotFoundError:
            yield found[1]
