"""What a host announces of one task to whoever follows it. Pure; docs/peer.md has the lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cafs.core.swarm.layout import Bitmap

PIECES_IN_LINE = 1024


@dataclass(frozen=True, slots=True)
class News:
    """Since the last time."""

    pieces: Sequence[tuple[int, bytes]]
    """Number and digest of what is here now."""
    coming: Bitmap | None = None
    """All that this host is reading from the origin: nobody else need do so. None: as before."""


SIGN_OF_LIFE = News(())


def encode_news(news: News) -> Iterator[bytes]:
    """Lines of JSON, one at least."""
    told = [[number, digest.hex()] for number, digest in news.pieces]
    for begin in range(0, len(told) or 1, PIECES_IN_LINE):
        line: dict[str, object] = {"pieces": told[begin : begin + PIECES_IN_LINE]}
        if news.coming is not None:
            line["coming"] = list(news.coming)[:PIECES_IN_LINE]
        yield json.dumps(line, separators=(",", ":")).encode() + b"\n"
