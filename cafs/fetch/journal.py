"""The journal of failed chunk fetches: what ``cafs explain`` reads.

JSON lines in a mount's run directory, bounded: when the file is full it becomes ``NAME.1`` and a new one
begins. Each line is one chunk that a reader did not get. The writer never lets a disk disturb a read that is
full, or that hangs: lines are written in a thread, which a reader awaits for a moment, so that who is told of
an error finds it explained.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from cafs.errors import IntegrityError
from cafs.fetch.flights import Flight

log = logging.getLogger(__name__)

FILE_NAME = "failures.jsonl"
FULL_BYTES = 256 << 10
MAX_ANSWERS = 16
"""Of one chunk, the last ones: a long outage gives the same answer hundreds of times."""
MOST_UNWRITTEN = 256
"""Lines that wait for a disk; further failures are not written down."""
WRITE_S = 0.5
"""So long a reader's error waits for its line to be written."""
WARN_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class FailedAnswer:
    """What one source said."""

    source: str
    kind: str
    """Class of the error in ``cafs.errors``."""
    message: str
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A chunk that a reader did not get."""

    at: float
    """Seconds since the epoch."""
    layer: str
    """diffID."""
    chunk: str
    """BLAKE3-256 in hex."""
    blob: str
    """Digest of the chunk blob."""
    offset: int
    length: int
    waited_s: float
    reason: str
    """The error that the reader's operation ended with, in one line."""
    answers: tuple[FailedAnswer, ...]


class Journal:
    """Appends failures to a file; without a path it only logs them.

    Args:
        path: The file.
        warns: False where the one reader tells each failure itself, as a command does.
    """

    def __init__(self, path: Path | None, *, warns: bool = True) -> None:
        self._path = path
        self._warns = warns
        self._broken = False
        self._unwritten: deque[bytes] = deque()
        self._threads = trio.CapacityLimiter(1)
        self._last_warning = float("-inf")
        self._kept_quiet = 0

    async def record(self, flight: Flight, *, at: float, waited_s: float, reason: str) -> None:
        """Write one failure down, and warn in the log, at most every few seconds.

        Returns when the line is written, or soon after. Not to be cancelled.
        """
        self._warn(at, reason)
        if self._path is None or self._broken or len(self._unwritten) >= MOST_UNWRITTEN:
            return
        self._unwritten.append(json.dumps(asdict(_failure(flight, at, waited_s, reason))).encode() + b"\n")
        with trio.move_on_after(WRITE_S, shield=True):
            await self.written()

    async def written(self) -> None:
        """Wait until all that was recorded is written, or given up."""
        if self._path is not None:
            await trio.to_thread.run_sync(
                self._write, self._path, limiter=self._threads, abandon_on_cancel=True
            )

    def _write(self, path: Path) -> None:
        """In a thread, one at a time."""
        try:
            while self._unwritten and not self._broken:
                with path.open("ab", buffering=0) as file:
                    while self._unwritten and (held := os.fstat(file.fileno()).st_size) < FULL_BYTES:
                        file.write(self._unwritten.popleft())
                if held >= FULL_BYTES:
                    path.replace(_older(path))
        except OSError as e:
            self._broken = True
            log.warning("failures are no longer written to %s: %s", path, e)

    def _warn(self, at: float, reason: str) -> None:
        if not self._warns:
            return
        if at - self._last_warning < WARN_EVERY_S:
            self._kept_quiet += 1
            return
        more = f" (and {self._kept_quiet} more since the last warning)" if self._kept_quiet else ""
        log.warning("read failed: %s%s", reason, more)
        self._last_warning, self._kept_quiet = at, 0


def read_journal(path: Path) -> list[Failure]:
    """All failures written down, oldest first. A torn line (killed while writing) is left out.

    Raises:
        IntegrityError: it is not a journal.
    """
    failures: list[Failure] = []
    for file in (_older(path), path):
        if not file.exists():
            continue
        for line in file.read_text(errors="replace").splitlines():
            try:
                fields: Any = json.loads(line)
            except ValueError:
                continue
            failures.append(_parse(fields, file))
    return failures


def _failure(flight: Flight, at: float, waited_s: float, reason: str) -> Failure:
    answers = tuple(
        FailedAnswer(a.source_name, type(a.error).__name__, str(a.error), a.at)
        for a in flight.answers[-MAX_ANSWERS:]
    )
    return Failure(
        at=at,
        layer=flight.origin.layer,
        chunk=flight.ref.digest.hex(),
        blob=flight.origin.blob.digest,
        offset=flight.ref.offset,
        length=flight.ref.frame_bytes,
        waited_s=waited_s,
        reason=reason,
        answers=answers,
    )


def _parse(fields: Any, file: Path) -> Failure:
    try:
        answers = tuple(FailedAnswer(**answer) for answer in fields.pop("answers"))
        return Failure(answers=answers, **fields)
    except (TypeError, KeyError, AttributeError) as e:
        raise IntegrityError(f"{file} is not a journal of failures: {e}") from e


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")
