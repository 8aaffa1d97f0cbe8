"""A service's live configuration: taken from the manager, obeyed, and kept for the next start.

Everything here belongs to the program's own thread (that of its event loop). What cannot be obeyed is
refused, and what held before holds on. The file is JSON, written beside and renamed; one that is damaged is
as good as none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafs.core.live.document import DOCUMENT_BYTES, LiveConfig, parse_document
from cafs.daemon.tellable import tellable
from cafs.errors import CafsError, UsageError
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

_FILE_BYTES = 1 << 20
_MOST_NUMBER = (1 << 31) - 1
Apply = Callable[[LiveConfig], None]
"""Has it hold from now on. What it raises (``CafsError``) is why it does not."""


@dataclass(frozen=True, slots=True)
class Held:
    """What holds."""

    cluster_id: int = 0
    version: int = 0
    """0: only what the service has itself."""


class LiveConfiguration:
    """See the module."""

    def __init__(self, path: Path, kind: str, apply: Apply) -> None:
        """
        Args:
            path: Where it is kept.
            kind: Of the clusters of such a service: ``scheduler`` or ``seed``.
            apply: Obeys.
        """
        self._path = path
        self._kind = kind
        self._apply = apply
        self._document: Any = {}
        self.held = Held()

    def recall(self) -> None:
        """Obey what was kept, before the manager has said anything."""
        try:
            kept = self._read()
            if kept is None:
                return
            held, document = kept
            self._apply(parse_document(document, self._kind))
        except (CafsError, OSError, ValueError, TypeError, RecursionError) as e:
            log.warning("the configuration kept in %s is not used: %s", self._path, e)
            return
        self.held, self._document = held, document
        log.info("configuration %d of cluster %d holds, as kept", held.version, held.cluster_id)

    def take(self, told: manager_pb2.Configuration) -> manager_pb2.Running:
        """Obey what the manager sends; what is to be said to that."""
        wanted = Held(told.cluster_id, told.version)
        try:
            _check_told(told)
            document = json.loads(told.document) if told.version else {}
            # Numbers alone do not say that: a manager's database may be a copy of yesterday.
            if (wanted, document) == (self.held, self._document):
                return self.running()
            self._apply(parse_document(document, self._kind))
        except (CafsError, ValueError, RecursionError) as e:
            log.warning("configuration %d of cluster %d is refused: %s", *_numbers(wanted), tellable(str(e)))
            return self.running(str(e))
        self.held, self._document = wanted, document
        log.info("configuration %d of cluster %d holds", *_numbers(wanted))
        try:
            self._write(document)
        except OSError as e:
            log.warning("the configuration cannot be kept in %s: %s", self._path, e.strerror)
        return self.running()

    def running(self, refused: str = "") -> manager_pb2.Running:
        """What holds, as it is told."""
        return manager_pb2.Running(
            cluster_id=self.held.cluster_id, version=self.held.version, refused=tellable(refused)
        )

    def _read(self) -> tuple[Held, Any] | None:
        try:
            with self._path.open("rb") as file:
                text = file.read(_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(text) > _FILE_BYTES:
            raise UsageError("it is too large")
        kept = json.loads(text)
        if not isinstance(kept, dict):
            raise UsageError("it is no object")
        return Held(_number(kept, "cluster_id"), _number(kept, "version")), kept.get("document")

    def _write(self, document: Any) -> None:
        kept = {"cluster_id": self.held.cluster_id, "version": self.held.version, "document": document}
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".new")
        beside.write_text(json.dumps(kept))
        beside.replace(self._path)


def _check_told(told: manager_pb2.Configuration) -> None:
    """Before it is read: what is refused later was in memory, and would be told."""
    if len(told.document) > DOCUMENT_BYTES:
        raise UsageError(f"the document is larger than {DOCUMENT_BYTES >> 10} KiB")
    if max(told.cluster_id, told.version) > _MOST_NUMBER:
        raise UsageError("there are no clusters and versions of such numbers")


def _number(kept: dict[str, Any], name: str) -> int:
    number = kept.get(name)
    if type(number) is not int or not 0 <= number <= _MOST_NUMBER:
        raise UsageError(f"{name} is none")
    return number


def _numbers(held: Held) -> tuple[int, int]:
    return held.version, held.cluster_id
