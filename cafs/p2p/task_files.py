"""The files of one task on the disk: its pieces and its record. Synchronous; called in worker threads.

    TASK_ID/data      the content at its own offsets, with holes where pieces are missing
    TASK_ID/record    64 hex digits of BLAKE3 over the rest, a newline, and JSON (``encode_record``)

A record is written beside and renamed; it names only pieces whose bytes were written before. Nothing is
synced: a kill leaves all that was written, and what a power cut damages fails its digest when it is read, and
is fetched again. docs/peer.md says why pieces are not in the chunk store.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import blake3

from cafs.core.digest import Digest
from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.layout import Bitmap, parse_layout
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.errors import CafsError, IntegrityError, StorageError

DIGEST_BYTES = 32
FORMAT = 1


@dataclass(slots=True)
class Record:
    """What is known of a task between two runs."""

    spec: TaskSpec
    meta: TaskMeta | None = None
    have: Bitmap = field(default_factory=Bitmap)
    digests: dict[int, bytes] = field(default_factory=dict)
    """BLAKE3 of pieces, by number; of all that are in ``have``, maybe of more."""
    whole: bool = False
    """All pieces are here and, if the content has a digest, it was right."""
    used_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NewPiece:
    """Bytes that somebody sent, and what they must hash to; None: whatever they hash to is their digest."""

    number: int
    data: bytes | bytearray | memoryview
    digest: bytes | None = None


def encode_record(record: Record) -> bytes:
    """The bytes of a record file."""
    held = sorted(record.have)
    body = {
        "format": FORMAT,
        "spec": asdict(record.spec),
        "content_bytes": -1,
        "piece_bytes": 0,
        "headers": [],
        "asked_at_s": 0.0,
        "have": base64.b64encode(record.have.encode()).decode(),
        "digests": base64.b64encode(b"".join(record.digests[n] for n in held)).decode(),
        "whole": record.whole,
        "used_at_s": record.used_at_s,
    }
    if (meta := record.meta) is not None:
        length = meta.layout.content_bytes
        body |= {"content_bytes": -1 if length is None else length, "piece_bytes": meta.layout.piece_bytes}
        body |= {"headers": meta.headers, "asked_at_s": meta.asked_at_s}
    text = json.dumps(body, separators=(",", ":")).encode()
    return blake3.blake3(text).hexdigest().encode() + b"\n" + text


def decode_record(data: bytes) -> Record:
    """Read a record file.

    Raises:
        IntegrityError: it is none, or damaged.
    """
    seal, _, text = data.partition(b"\n")
    if blake3.blake3(text).hexdigest().encode() != seal:
        raise IntegrityError("the record of a task is damaged")
    try:
        body = json.loads(text)
        if body["format"] != FORMAT:
            raise IntegrityError(f"the record of a task has format {body['format']}")
        return _record(body)
    except (KeyError, TypeError, ValueError, CafsError) as e:
        raise IntegrityError(f"the record of a task cannot be read: {e}") from None


def _record(body: dict[str, Any]) -> Record:
    given = body["spec"]
    spec = TaskSpec(
        **given
        | {
            "task_id": TaskId(given["task_id"]),
            "digest": Digest(given["digest"]) if given["digest"] else None,
            "filtered_query": tuple(given["filtered_query"]),
        }
    )
    record = Record(spec, whole=bool(body["whole"]), used_at_s=float(body["used_at_s"]))
    if body["piece_bytes"]:
        layout = parse_layout(body["content_bytes"], body["piece_bytes"])
        record.meta = TaskMeta(layout, tuple((n, v) for n, v in body["headers"]), float(body["asked_at_s"]))
        record.have = Bitmap.decode(base64.b64decode(body["have"]), layout.count)
        digests = base64.b64decode(body["digests"])
        if len(digests) != DIGEST_BYTES * len(record.have):
            raise IntegrityError("the record of a task lacks digests")
        places = range(0, len(digests), DIGEST_BYTES)
        record.digests = {
            n: digests[at : at + DIGEST_BYTES] for n, at in zip(record.have, places, strict=True)
        }
    return record


class NoSpaceError(StorageError):
    """The disk is full, though the quota is not."""


class _Descriptor:
    """An open file; closed when the last thread that uses it lets go of it."""

    def __init__(self, path: Path, flags: int) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class TaskFiles:
    """A task's directory. Calls from several threads at once are fine, but for the same piece."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: _Descriptor | None = None

    def make(self) -> None:
        """The directory, if there is none.

        Raises:
            StorageError: the disk cannot.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise self._failed("made", e) from e

    def release(self) -> None:
        """Nobody uses it for now: hold no descriptor."""
        self._open = None

    def _data(self, flags: int = 0) -> _Descriptor:
        found = self._open
        if found is None:  # two threads may open it twice: the second descriptor goes with its thread's call
            found = self._open = _Descriptor(self.directory / "data", flags)
        return found

    def write(self, pieces: Sequence[NewPiece], piece_bytes: int) -> list[bytes | IntegrityError]:
        """Verify pieces and keep the right ones.

        Returns:
            For each its digest, or what is wrong with it.

        Raises:
            NoSpaceError: the disk is full.
            StorageError: it is broken.
        """
        results: list[bytes | IntegrityError] = []
        for piece in pieces:
            digest = blake3.blake3(piece.data).digest()
            if piece.digest is not None and digest != piece.digest:
                results.append(IntegrityError(f"piece {piece.number} does not match its digest"))
                continue
            self._write_at(piece.data, piece.number * piece_bytes)
            results.append(digest)
        return results

    def _write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        view = memoryview(data)
        try:
            file = self._data(os.O_CREAT)
            while view:
                written = os.pwrite(file.fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as e:
            raise self._failed("written", e) from e

    def read(self, offset: int, size: int, digest: bytes, number: int) -> bytes:
        """One piece, verified.

        Raises:
            IntegrityError: it is not what it was.
            StorageError: the disk is broken.
        """
        try:
            file = self._data()
            data = os.pread(file.fd, size, offset)
        except FileNotFoundError:
            data = b""
        except OSError as e:
            raise self._failed("read", e) from e
        if len(data) != size or blake3.blake3(data).digest() != digest:
            raise IntegrityError(f"piece {number} of task {self.directory.name} has rotted on the disk")
        return data

    def save(self, record: bytes) -> None:
        """Replace the record.

        Raises:
            StorageError: the disk is full, or broken.
        """
        beside = self.directory / "record.new"
        try:
            beside.write_bytes(record)
            beside.replace(self.directory / "record")
        except OSError as e:
            raise self._failed("written", e) from e

    def load(self) -> Record:
        """Read the record.

        Raises:
            IntegrityError: it is missing or damaged.
        """
        try:
            return decode_record((self.directory / "record").read_bytes())
        except OSError as e:
            raise IntegrityError(f"task {self.directory.name} has no record: {e.strerror}") from None

    def remove(self) -> None:
        """Delete all of it."""
        self.release()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _failed(self, what: str, error: OSError) -> StorageError:
        kind = NoSpaceError if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
        return kind(f"task {self.directory.name} cannot be {what}: {error.strerror}")
