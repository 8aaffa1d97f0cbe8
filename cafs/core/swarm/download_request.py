"""``POST /v1/download`` on the node socket: what somebody on this machine wants. Pure; docs/peer.md.

Whatever address and header fields a proxy takes from its clients, it may pass on: the bounds are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cafs.core.digest import Digest, parse_digest
from cafs.core.proxying.head import FIELD_VALUE, MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES
from cafs.core.swarm.priorities import HIGHEST, USUAL
from cafs.core.swarm.task import MOST_NAME_BYTES, is_name
from cafs.errors import UsageError

DOWNLOAD_PATH, STATUS_PATH = "/v1/download", "/v1/status"
_MEMBERS = frozenset(
    ["url", "digest", "tag", "application", "headers", "priority", "bytes_per_s", "range", "filtered_query"]
)
_MAX_WORD = 1024
_MAX_URL = MAX_TARGET_BYTES + _MAX_WORD
"""A target, with scheme and host before it."""
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """One content, or a range of it; the range is inclusive."""

    url: str
    digest: Digest | None = None
    tag: str = ""
    application: str = ""
    filtered_query: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    priority: int = USUAL
    bytes_per_s: int = 0
    """0: as fast as it can."""
    first_byte: int = 0
    last_byte: int | None = None

    def encode(self) -> bytes:
        """The request's body; what is as usual is left out."""
        document: dict[str, Any] = {"url": self.url, "priority": self.priority}
        for name in ("digest", "tag", "application", "bytes_per_s"):
            if value := getattr(self, name):
                document[name] = value
        if self.filtered_query:
            document["filtered_query"] = list(self.filtered_query)
        if self.headers:
            document["headers"] = [list(header) for header in self.headers]
        if self.first_byte or self.last_byte is not None:
            document["range"] = [self.first_byte, self.last_byte]
        # Not in ASCII: six bytes for one would make too much of a head that is just not too long.
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def parse_download(body: bytes) -> DownloadRequest:
    """Read a request's body.

    Raises:
        UsageError: it is none.
    """
    try:
        document = json.loads(body)
        if not isinstance(document, dict):
            raise UsageError("the body is no JSON object")
        if unknown := document.keys() - _MEMBERS:
            raise UsageError(f"unknown member {sorted(unknown)[0][:40]!r}")
        first, last = _range(document.get("range"))
        return DownloadRequest(
            url=_text(document, "url", _MAX_URL, least=1),
            digest=parse_digest(document["digest"]) if document.get("digest") else None,
            tag=_name(document.get("tag", ""), "tag"),
            application=_name(document.get("application", ""), "application"),
            filtered_query=tuple(_name(n, "filtered_query") for n in _list(document, "filtered_query")),
            headers=tuple((_word(n, MAX_HEAD_BYTES), _value(v)) for n, v in _list(document, "headers")),
            priority=_number(document.get("priority", USUAL), HIGHEST),
            bytes_per_s=_number(document.get("bytes_per_s", 0), _LARGEST),
            first_byte=first,
            last_byte=last,
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise UsageError(f"the body is no wish for a download: {str(e)[:80]}") from None


def _range(value: Any) -> tuple[int, int | None]:
    if value is None:
        return 0, None
    first, last = value
    return _number(first, _LARGEST), None if last is None else _number(last, _LARGEST)


def _text(document: Mapping[str, Any], name: str, most: int, least: int = 0) -> str:
    text = _word(document.get(name, ""), most)
    if len(text) < least:
        raise UsageError(f"{name!r} is missing")
    return text


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not is_name(value):
        raise UsageError(f"{what} must be printable, and of at most {MOST_NAME_BYTES} bytes")
    return value


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name, [])
    if not isinstance(value, list) or len(value) > MAX_FIELDS:
        raise TypeError(f"{name} must be a list of at most {MAX_FIELDS}")
    return value


def _word(value: Any, most: int = _MAX_WORD) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise TypeError("not a printable text, or too long")
    return value


def _value(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_HEAD_BYTES or not FIELD_VALUE.fullmatch(value):
        raise TypeError("not the value of a header field, or too long")
    return value


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"not a number from 0 to {most}")
    return value
