"""Tar archives as trees of files, read in place by offset; and OCI archives on top of that.

Only the archive's own headers are walked, once, with the standard library's parser: these archives are
made by skopeo, docker and podman, and hold plain files. (Layers are another matter, see ``cafs.core.tar``.)
"""

from __future__ import annotations

import io
import tarfile
import threading
from pathlib import Path, PurePosixPath

from cafs.core.tar import MAX_EXTENSION_BYTES
from cafs.core.tar_header import BLOCK_BYTES
from cafs.errors import IntegrityError, NotFoundError, StorageError, UsageError
from cafs.oci.layout_reader import LayoutReader
from cafs.oci.spans import Span

_MAX_MEMBERS = 100_000
_MAX_LINKS = 8
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00")


class TarTree:
    """See ``cafs.oci.spans.FileTree``. The members are listed by the first look."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._lock = threading.Lock()
        self._members: dict[str, Span | str] | None = None

    @property
    def name(self) -> str:
        return self._name

    def find(self, name: str) -> Span | None:
        """See ``FileTree``. Links within the archive are followed, as ``docker save`` made them."""
        with self._lock:
            if self._members is None:
                self._members = _list_members(self._path, self._name)
        for _ in range(_MAX_LINKS):
            found = self._members.get(name)
            if not isinstance(found, str):
                return found
            name = found
        raise IntegrityError(f"{self._name}: {name} is a link to a link to a link")


class _Archive(io.BufferedReader):
    """A file for tarfile, which would read an extension header of any length that it states."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(io.FileIO(path))
        self._name_of_archive = name

    def read(self, size: int | None = -1, /) -> bytes:
        """At most so many bytes; IntegrityError: nobody's header is so long."""
        if size is not None and size > MAX_EXTENSION_BYTES + BLOCK_BYTES:
            raise IntegrityError(f"{self._name_of_archive} states a header of {size} bytes: it is damaged")
        return super().read(size)


def _list_members(path: Path, name: str) -> dict[str, Span | str]:
    members: dict[str, Span | str] = {}
    try:
        size = path.stat().st_size
        with _Archive(path, name) as file:
            if file.read(6).startswith(_COMPRESSED):
                raise UsageError(f"{name} is compressed: decompress it first, it is read in place")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    _add_member(members, member, path, size, name)
    except FileNotFoundError as e:
        raise NotFoundError(f"{name}: no such file") from e
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}") from e
    except (
        tarfile.TarError,
        ValueError,
        EOFError,
        RecursionError,
    ) as e:  # it follows long names by recursion
        raise IntegrityError(f"{name} is not a readable tar archive: {str(e)[:100]}") from e
    return members


def _add_member(
    members: dict[str, Span | str], member: tarfile.TarInfo, path: Path, size: int, name: str
) -> None:
    if len(members) >= _MAX_MEMBERS:
        raise IntegrityError(f"{name} has more than the {_MAX_MEMBERS} members allowed")
    own = _normal(member.name)
    if member.isreg() and not member.issparse():
        if member.offset_data + member.size > size:
            raise IntegrityError(f"{name} is cut short: {member.name!r} reaches beyond its end")
        members[own] = Span(path, member.offset_data, member.size)
    elif member.islnk():
        members[own] = _normal(member.linkname)
    elif member.issym():
        members[own] = _normal(str(PurePosixPath(member.name).parent / member.linkname))


def _normal(name: str) -> str:
    """A key, never a path on disk: ``..`` only takes a component away."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def open_oci_archive(path: Path) -> LayoutReader:
    """An image layout in a tar, read-only."""
    return LayoutReader(TarTree(path, f"oci-archive:{path}"))
