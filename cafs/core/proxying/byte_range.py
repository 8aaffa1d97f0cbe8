"""Range arithmetic. Pure. Source: RFC 9110, 14 (range requests)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE = re.compile(r"\s*([0-9]{1,18})\s*-\s*([0-9]{1,18})?\s*|\s*-\s*([0-9]{1,18})\s*")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One range as it was asked for."""

    first: int | None
    """None: the last ``last`` bytes."""
    last: int | None
    """Inclusive; None: up to the end."""

    @property
    def is_suffix(self) -> bool:
        """It counts from the end, so what it means depends on how long the content is."""
        return self.first is None

    def within(self, size: int) -> tuple[int, int] | None:
        """First and last byte in a content of ``size``; None: nothing of it is there."""
        if self.first is None:
            length = min(self.last or 0, size)
            return (size - length, size - 1) if length else None
        if self.first >= size:
            return None
        return self.first, size - 1 if self.last is None else min(self.last, size - 1)

    def __str__(self) -> str:
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"


def parse_ranges(header: str) -> list[ByteRange] | None:
    """Read a Range field; None when it is to be passed over: another unit, or malformed."""
    unit, equals, rest = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    ranges = []
    for part in rest.split(","):
        if not part.strip():
            continue
        found = _SINGLE.fullmatch(part)
        if found is None:
            return None
        if found[1] is None:
            ranges.append(ByteRange(None, int(found[3])))
            continue
        first, last = int(found[1]), int(found[2]) if found[2] else None
        if last is not None and last < first:
            return None
        ranges.append(ByteRange(first, last))
    return ranges or None


def content_range(first: int, last: int, size: int | None) -> str:
    """The Content-Range of a 206."""
    return f"bytes {first}-{last}/{'*' if size is None else size}"
