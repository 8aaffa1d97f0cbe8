"""The journal of failed chunk fetches: what ``cafs explain`` reads.

JSON lines in a mount's run directory, bounded: when the file is full it becomes ``NAME.1`` and a new one
begins. Each line is one chunk that a reader did not get. The writer never lets a full disk disturb a read.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cafs.errors import IntegrityError
from cafs.fetch.flights import Flight

log = logging.getLogger(__name__)

FILE_NAME = "failures.jsonl"
FULL_BYTES = 256 << 10
MAX_ANSWERS = 16
"""Of one chunk, the last ones: a long outage gives the same answer hundreds of times."""
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
        self._last_warning = float("-inf")
        self._kept_quiet = 0

    def record(self, flight: Flight, *, at: float, waited_s: float, reason: str) -> None:
        """Write one failure down, and warn in the log, at most every few seconds."""
        self._warn(at, reason)
        if self._path is None or self._broken:
            return
        line = json.dumps(asdict(_failure(flight, at, waited_s, reason))) + "\n"
        try:
            with self._path.open("a") as file:
                file.write(line)
                full = file.tell() >= FULL_BYTES
            if full:
                self._path.replace(_older(self._path))
        except OSError as e:
            self._broken = True
            log.warning("failures are no longer written to %s: %s", self._path, e)

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
