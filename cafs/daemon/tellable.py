"""Words of others as they may be told on: to the manager, to a host, into a log. Pure."""

from __future__ import annotations

_TOLD_BYTES = 900


def tellable(text: str) -> str:
    """As the manager takes it: one line, printable, not too long."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line.encode()[:_TOLD_BYTES].decode(errors="ignore")
