"""How much there may be in a JSON document of strangers, besides its bytes. Pure.

Parsing keeps the interpreter to itself, and with it all readers: a MiB of empty lists takes many times as
long as a MiB of text.
"""

from __future__ import annotations


def has_more_values(content: bytes, most: int) -> bool:
    """Whether there may be more than ``most`` values: commas and brackets are counted, also in texts."""
    return content.count(b",") + content.count(b"[") + content.count(b"{") > most
