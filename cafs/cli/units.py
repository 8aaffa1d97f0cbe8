"""Sizes, rates and durations as people write and read them. Pure."""

from __future__ import annotations

import re

from cafs.errors import UsageError

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGTP]?)(I?B?)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of ``"20GiB"``, ``"1.5 MB"``, ``"64k"`` or ``"4096"``.

    ``KiB`` and a bare ``K`` mean 1024, ``KB`` means 1000.

    Raises:
        UsageError: it is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[3].upper() == "I":
        raise UsageError(f"not a size: {text[:50]!r} (write it as 512MiB, 20GiB or a number of bytes)")
    base = 1000 if match[2] and match[3].upper() == "B" else 1024
    factor: int = base ** _POWERS[match[2].upper()]
    return round(float(match[1]) * factor)


def format_size(size_bytes: float) -> str:
    """``"999 B"``, ``"1.21 MiB"``, ``"20.0 GiB"``: three digits that matter, binary units."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        # 999.5 and not 1024: "1000 KiB" would need a fourth digit.
        if abs(value) < 999.5:
            break
        value, unit = value / 1024, larger
    if unit == "B":
        return f"{value:.0f} B"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def format_rate(bytes_per_s: float) -> str:
    """``"12.3 MiB/s"``."""
    return format_size(bytes_per_s) + "/s"


def format_duration(seconds: float) -> str:
    """``"0.35 s"``, ``"42 s"``, ``"3:07"``, ``"2:05:09"``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_count(count: int, singular: str, plural: str | None = None) -> str:
    """``"1 file"``, ``"5,351 files"``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
