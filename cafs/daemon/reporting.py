"""A service's reports to the manager: from the ledger to messages, and over a restart.

Everything here belongs to the program's own thread. What was not counted when a program ends in order is kept
in a file (JSON, written beside and renamed), which the next start takes away: who is killed after that begins
anew, so nothing is told twice.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from cafs.core.statistics.ledger import Ledger, Report
from cafs.core.statistics.shares import Parts
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

_FILE_BYTES = 1 << 20


class Reporting:
    """See the module."""

    def __init__(self, ledger: Ledger, path: Path) -> None:
        """``path``: where is kept what was not counted."""
        self._ledger = ledger
        self._path = path
        self._recall()

    def due_in(self) -> float:
        """So many seconds there is nothing to be said. From any thread."""
        return self._ledger.due_in(time.monotonic())

    def on_stream(self) -> None:
        """A stream began."""
        self._ledger.on_stream()

    def due(self) -> manager_pb2.FromService | None:
        """What is to be said now, if anything."""
        report = self._ledger.due(time.monotonic())
        return None if report is None else encode_report(report)

    def counted(self, told: manager_pb2.Counted) -> None:
        """The manager has it."""
        self._ledger.counted(told.life, told.number, told.next_in_ms / 1000, time.monotonic())

    def keep(self) -> None:
        """The program ends: what was not counted is for its next start."""
        path, beside = self._path, self._path.with_name(self._path.name + ".new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside.write_text(json.dumps(self._ledger.kept()))
            beside.replace(path)
        except OSError as e:
            log.warning(
                "figures that the manager does not have yet cannot be kept in %s: %s", path, e.strerror
            )

    def _recall(self) -> None:
        path = self._path
        try:
            with path.open("rb") as file:
                text = file.read(_FILE_BYTES)
            path.unlink()
            self._ledger.recall(json.loads(text))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as e:
            log.warning("the figures kept in %s are not used: %s", path, e)


def encode_report(report: Report) -> manager_pb2.FromService:
    """As a message."""
    return manager_pb2.FromService(
        report=manager_pb2.Report(
            life=report.life,
            number=report.number,
            all=manager_pb2.Counts(**report.amounts),
            tasks=_parts(report.tasks),
            applications=_parts(report.applications),
            levels=manager_pb2.Levels(**report.levels),
        )
    )


def _parts(parts: Parts) -> list[manager_pb2.Part]:
    return [
        manager_pb2.Part(name=name, counts=manager_pb2.Counts(**amounts)) for name, amounts in parts.items()
    ]
