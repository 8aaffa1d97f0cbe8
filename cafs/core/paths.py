"""Names as layers write them, made into the paths CAFS keeps, and what whiteout names mean.

Used by ``cafs.convert``. A path is relative bytes without ``./``; ``b""`` is the root. Source of the
whiteout rules: OCI image-spec, layer.md, "Whiteouts"; AUFS for ``.wh..wh.``.
"""

from __future__ import annotations

from enum import Enum

from cafs.errors import IntegrityError

MAX_PATH_BYTES = 4096
"""PATH_MAX of Linux: a longer one could not be unpacked either."""
MAX_NAME_BYTES = 255

_WHITEOUT = b".wh."
_AUFS = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


class Effect(Enum):
    """What an entry's name asks for."""

    ADD = 0
    WHITEOUT = 1
    """Hide the path in the layers below."""
    OPAQUE = 2
    """Hide all that the layers below have in the directory at the path."""
    IGNORE = 3
    """AUFS's own bookkeeping."""


def show_path(path: bytes) -> str:
    """For messages: printable, and not too long."""
    return path[:200].decode(errors="backslashreplace")


def clean_path(name: bytes, *, is_link_target: bool = False) -> bytes:
    """Drop ``.`` components and double slashes.

    Args:
        name: As the archive has it.
        is_link_target: A hard link's target may be written absolute: it is meant from the layer's
            root, and every unpacker takes it so.

    Raises:
        IntegrityError: absolute, above the root, with a NUL, or too long.
    """
    if b"\0" in name:
        raise IntegrityError(f"{show_path(name)!r}: a name with a NUL byte cannot be")
    if len(name) > MAX_PATH_BYTES:
        raise IntegrityError(f"{show_path(name)}...: a name of {len(name)} bytes cannot be")
    if name.startswith(b"/") and not is_link_target:
        raise IntegrityError(f"{show_path(name)}: an absolute name in a layer is refused")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise IntegrityError(f"{show_path(name)}: a name with '..' in a layer is refused")
        if len(part) > MAX_NAME_BYTES:
            raise IntegrityError(f"{show_path(name)}: a name of {len(part)} bytes cannot be")
    return b"/".join(parts)


def parse_whiteout(path: bytes) -> tuple[Effect, bytes]:
    """What a clean path of a layer asks for, and of which path.

    Raises:
        IntegrityError: a whiteout of nothing, or an entry below a whiteout.
    """
    if b".wh." not in path:
        return Effect.ADD, path
    parent, _, name = path.rpartition(b"/")
    if name == _OPAQUE:
        return Effect.OPAQUE, parent
    components = path.split(b"/")
    if any(part.startswith(_AUFS) for part in components):
        return Effect.IGNORE, path
    if any(part.startswith(_WHITEOUT) for part in components[:-1]):
        raise IntegrityError(f"{show_path(path)}: an entry below a whiteout cannot be")
    if not name.startswith(_WHITEOUT):
        return Effect.ADD, path
    hidden = name[len(_WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise IntegrityError(f"{show_path(path)}: a whiteout of nothing cannot be")
    return Effect.WHITEOUT, parent + b"/" + hidden if parent else hidden
