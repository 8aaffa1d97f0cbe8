"""Reads plain values out of a JSON document, and gathers all that is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_WRONG = 100
"""That are told of one document: whoever mends so many asks again."""


@dataclass(slots=True)
class Wrong:
    """What is wrong, by path: ``peer.concurrent_uploads``, ``block[2].url``. The first ``MOST_WRONG``."""

    found: dict[str, str] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """No more is told, so nobody need look for more."""
        return len(self.found) >= MOST_WRONG

    def note(self, path: str, why: str) -> None:
        """One more; of a path the first counts."""
        if not self.is_full:
            self.found.setdefault(path, why)

    def number(self, path: str, value: Any, least: float, most: float, *, whole: bool = True) -> float | None:
        """A number within bounds; None: it is none, and that is noted."""
        kinds = (int,) if whole else (int, float)
        if type(value) not in kinds or not least <= value <= most:
            kind = "whole number" if whole else "number"
            self.note(path, f"must be a {kind}, {least:,.16g} to {most:,.16g}")
            return None
        return float(value) if not whole else int(value)

    def text(self, path: str, value: Any, most: int) -> str:
        """A printable text that is not empty; empty: it is none, and that is noted."""
        if not isinstance(value, str) or not value or len(value) > most or not value.isprintable():
            self.note(path, f"must be a printable text of 1 to {most} characters")
            return ""
        return value

    def table(self, path: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        """An object that has no other fields than ``known``; those of it that it has."""
        if not isinstance(value, dict):
            self.note(path or "document", "must be an object")
            return {}
        for name in value:
            if name not in known:
                where = f"{path}.{name}" if path else str(name)
                self.note(where[:200], f"is unknown; there are {', '.join(sorted(known))}")
        return {name: found for name, found in value.items() if name in known}

    def rows(self, path: str, value: Any, most: int) -> list[Any]:
        """A list of so many at most."""
        if not isinstance(value, list) or len(value) > most:
            self.note(path, f"must be a list of at most {most}")
            return []
        return value
