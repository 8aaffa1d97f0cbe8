"""A file that is still coming: beside its target, resumable, renamed once it is whole.

What it is a part of is kept in an extended attribute, so that there is one file only; what the files of a
directory are, too: they need not come again. On a filesystem without them all is begun anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cafs.core.digest import Digest, new_hash
from cafs.errors import IntegrityError, StateError, StorageError, UsageError

_ATTRIBUTE = "user.cafs.download"
_WRITTEN = "written_ns"
"""When a whole file was last written: it may be another one since."""
_READ_BYTES = 1 << 20
_FLUSH_BYTES = 16 << 20
"""The disk is set to work on each so many bytes as they come: at the end little is left to wait for."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a content is recognised by."""

    source: str
    """The address, without secrets."""
    digest: str = ""
    etag: str = ""
    last_modified: str = ""
    content_bytes: int | None = None
    first_byte: int = 0
    """Of the part that is wanted of it."""
    last_byte: int | None = None
    """Inclusive; None: up to the end."""

    def may_continue(self, kept: Identity) -> bool:
        """Whether what is there under ``kept`` is the beginning of this: only when something proves it."""
        if (self.first_byte, self.last_byte) != (kept.first_byte, kept.last_byte):
            return False
        if self.digest:
            return self.digest == kept.digest
        if self.source != kept.source or self.content_bytes != kept.content_bytes:
            return False
        strong = bool(self.etag) and not self.etag.startswith("W/") and self.etag == kept.etag
        dated = not self.etag and bool(self.last_modified) and self.last_modified == kept.last_modified
        return strong or dated


class PartialFile:
    """Written from one task; a context manager. Left without ``finish``, it stays for the next try.

    Locked: of two downloads into one file the later one would cut off and rename what the other has written.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(target.name + ".part")
        self._descriptor = -1
        self._flushed = 0
        self.size = 0

    def __enter__(self) -> Self:
        """
        Raises:
            UsageError: the target is there and no file: it would be replaced by one.
            StateError: another download has it.
            StorageError: the disk cannot.
        """
        if self._target.exists() and not self._target.is_file():
            raise UsageError(f"{self._target} is no regular file: a download would replace it")
        while not self._open():
            pass  # it was renamed or removed by who had it, just then
        self.size = os.fstat(self._descriptor).st_size
        return self

    def _open(self) -> bool:
        """Open and lock it; False: by now another file, or none, has its name."""
        try:
            opened = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as e:
            raise StorageError(f"cannot write {self.path}: {e.strerror}") from e
        try:
            _lock(opened)
            if os.path.samestat(os.fstat(opened), self.path.lstat()):
                self._descriptor = opened
                return True
        except FileNotFoundError:
            return False
        except BlockingIOError:
            raise StateError(f"another download is writing {self.path}: wait for it, or end it") from None
        finally:
            if self._descriptor != opened:
                os.close(opened)
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.size:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    @property
    def kept(self) -> Identity | None:
        """What is there, of an earlier try."""
        try:
            return Identity(**json.loads(os.getxattr(self._descriptor, _ATTRIBUTE)))
        except (OSError, ValueError, TypeError):
            return None

    def begin(self, identity: Identity, at: int) -> None:
        """From now on it is a part of this content, of which ``at`` bytes are here."""
        os.ftruncate(self._descriptor, at)
        os.lseek(self._descriptor, at, os.SEEK_SET)
        self.size = self._flushed = at
        with suppress(OSError):
            os.setxattr(self._descriptor, _ATTRIBUTE, json.dumps(asdict(identity)).encode())

    def write(self, piece: bytes) -> None:
        """Append.

        Raises:
            StorageError: the disk does not take it.
        """
        view = memoryview(piece)
        try:
            while view:
                written = os.write(self._descriptor, view)
                view = view[written:]
                self.size += written
            if self.size - self._flushed >= _FLUSH_BYTES:
                # Begins to write back, and does not wait: what is being written cannot be dropped.
                os.posix_fadvise(
                    self._descriptor, self._flushed, self.size - self._flushed, os.POSIX_FADV_DONTNEED
                )
                self._flushed = self.size
        except OSError as e:
            raise StorageError(f"cannot write {self.path}: {e.strerror}") from e

    def verify(self, digest: Digest) -> None:
        """Read all of it back.

        Raises:
            IntegrityError: it is something else; it was removed.
        """
        hasher = new_hash(digest)
        offset = 0
        while piece := os.pread(self._descriptor, _READ_BYTES, offset):
            hasher.update(piece)
            offset += len(piece)
        if f"{hasher.name}:{hasher.hexdigest()}" != digest:
            self.discard()
            raise IntegrityError(f"the content does not have the digest {digest}: nothing of it was kept")

    def discard(self) -> None:
        """Nothing of it is worth keeping."""
        self.begin(Identity(""), 0)

    def finish(self, *, recognisable: bool = False) -> None:
        """It is whole: it takes its target's name. ``recognisable``: by ``whole_file``, until it is written.

        Raises:
            StorageError: it cannot.
        """
        kept = self.kept if recognisable else None
        try:
            with suppress(OSError):
                if kept is None:
                    os.removexattr(self._descriptor, _ATTRIBUTE)
                else:
                    document = {**asdict(kept), _WRITTEN: os.fstat(self._descriptor).st_mtime_ns}
                    os.setxattr(self._descriptor, _ATTRIBUTE, json.dumps(document).encode())
            os.fsync(self._descriptor)
            self.path.rename(self._target)
        except OSError as e:
            raise StorageError(f"cannot write {self._target}: {e.strerror}") from e
        self.size = max(self.size, 1)  # an empty file was renamed, too: nothing is left to remove


def whole_file(path: Path) -> Identity | None:
    """What a file is that came whole earlier and was left as it was; None: it is none, or nobody knows."""
    try:
        document = json.loads(os.getxattr(path, _ATTRIBUTE))
        seen = path.stat()
        written = document.pop(_WRITTEN)
        kept = Identity(**document)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return kept if (written, kept.content_bytes) == (seen.st_mtime_ns, seen.st_size) else None


def length_with(path: Path, digest: Digest) -> int | None:
    """The length of a file with this content; None: it is none, or has another one. Reads all of it."""
    hasher, length = new_hash(digest), 0
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                hasher.update(piece)
                length += len(piece)
    except OSError:
        return None
    return length if f"{hasher.name}:{hasher.hexdigest()}" == digest else None


def _lock(descriptor: int) -> None:
    """Until it is closed; raises BlockingIOError when another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a filesystem that knows no locks
