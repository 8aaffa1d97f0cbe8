"""One finding of ``cafs doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, but slower, with less or not for long."""
    FAIL = "fail"
    """Something that CAFS needs is not there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    """In a word or two."""
    what: str
    """How it is."""
    why: str = ""
    """What it means for the user, where something is wrong."""
    mend: str = ""
    """A command to paste, or what to do."""
