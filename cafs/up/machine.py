"""What of CAFS this machine can run: which extras are installed, and whether we are root."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

from cafs.up.plan import MANAGER, NAMES, SCHEDULER, SNAPSHOTTER

_GRPC = ("grpc", "google.protobuf", "re2")
_EXTRAS = {
    SNAPSHOTTER: ("snapshotter", _GRPC),
    SCHEDULER: ("snapshotter", _GRPC),
    MANAGER: ("manager", (*_GRPC, "sqlalchemy", "alembic", "fastapi", "uvicorn", "argon2")),
}
"""By service: the extra that it needs, and modules that it brings."""


def left_out(without: Collection[str], *, is_root: bool) -> list[tuple[str, str]]:
    """Services that do not run here, and why.

    Args:
        without: Names of those that are not wanted.
        is_root: The snapshotter mounts filesystems.
    """
    found = []
    for name in NAMES:
        extra, modules = _EXTRAS.get(name, ("", ()))
        missing = next((module for module in modules if not _is_installed(module)), None)
        if name in without:
            found.append((name, "not wanted"))
        elif missing is not None:
            found.append((name, f"{missing} is missing: pip install 'cafs[{extra}]'"))
        elif name == SNAPSHOTTER and not is_root:
            found.append((name, "it mounts filesystems, which needs root"))
    return found


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of is missing
        return False
