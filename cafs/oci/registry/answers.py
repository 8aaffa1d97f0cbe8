"""Reading what a registry answered: ranges, waits, errors, redirects. Pure.

Sources: RFC 9110 (Content-Range, Retry-After, Location), distribution-spec v1.1 "Error Codes".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from cafs.errors import (
    AuthError,
    CafsError,
    DeadlineError,
    NotFoundError,
    ProtocolError,
    RemoteError,
)

MAX_ERROR_BODY = 8 << 10
REDIRECTS = frozenset((301, 302, 303, 307, 308))
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_NEXT_LINK = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next"?')
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 8.0
_LONGEST_RETRY_AFTER_S = 60.0
_DIGEST_INVALID = "DIGEST_INVALID"
"""Digests are taken of the very bytes we send, so what a registry saw is not what is there: bytes were
damaged on the way, or it read a file of its own that another push of the same blob was just writing
(docker-registry 2.8)."""


class LastingError(RemoteError):
    """The registry refused the request itself (most of 4xx): asking again brings the same."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Bytes ``first`` to ``last`` (inclusive) of ``total``; None where the server does not say."""

    first: int
    last: int
    total: int | None


def parse_content_range(header: str) -> ContentRange | None:
    """Read a Content-Range header; None when it is none of a satisfied byte range."""
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if not found:
        return None
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if last < first or (total is not None and last >= total):
        return None
    return ContentRange(first, last, total)


def check_content_range(header: str, offset: int, length: int, total: int, what: str) -> None:
    """A 206 must hold exactly what was asked for.

    Raises:
        ProtocolError: it holds something else, or the whole is not as long as declared.
    """
    found = parse_content_range(header)
    if found is None:
        raise ProtocolError(f"{what} answered 206 with Content-Range {header[:60]!r}")
    if (found.first, found.last) != (offset, offset + length - 1):
        raise ProtocolError(
            f"{what} was asked for bytes {offset}-{offset + length - 1},"
            f" answered with {found.first}-{found.last}"
        )
    if found.total is not None and found.total != total:
        raise ProtocolError(f"{what} has {found.total} bytes there, declared are {total}")


def parse_retry_after(header: str | None, now_s: float) -> float | None:
    """Seconds to wait, from either form of Retry-After; None when it is missing or senseless."""
    if not header:
        return None
    text = header.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None


def describe_body(body: bytes) -> str:
    """What an error's body says, as one short line; empty when it says nothing readable."""
    try:
        value = json.loads(body)
        errors = value.get("errors") if isinstance(value, dict) else None
        first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else value
        if not isinstance(first, dict):
            return ""
        words = (first.get("code"), first.get("message"), first.get("details"))
        text = ": ".join(word for word in words if isinstance(word, str) and word)
    except (ValueError, RecursionError):
        return ""
    line = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(line.split())[:200]


def error_of(status: int, reason: str, body: bytes, what: str, retry_after_s: float | None) -> CafsError:
    """The error for an answer that is not a success. ``what`` names host, repository and request."""
    said = describe_body(body)
    passing = status in {425, 429} or (status == 400 and said.startswith(_DIGEST_INVALID))
    answer = f"{status} {reason}".strip() + (f" ({said})" if said else "")
    if status == 404:
        return NotFoundError(f"{what}: not found: answered {answer}")
    if status in {401, 403}:
        return AuthError(f"{what}: credentials refused or missing: answered {answer}")
    kind: type[RemoteError] = LastingError if 400 <= status < 500 else RemoteError
    if status in {408, 504}:
        kind = DeadlineError
    elif passing:
        kind = RemoteError
    error = kind(f"{what}: answered {answer}")
    error.retry_after_s, error.http_status = retry_after_s, status
    return error


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: credentials for one origin go to no other."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def resolve_location(base: str, location: str, what: str) -> str:
    """The address that a Location or Link names, relative to ``base``.

    Raises:
        ProtocolError: missing, no HTTP address, or from https down to plain http.
    """
    try:
        url = urljoin(base, location)
        scheme, host, _ = origin_of(url)
    except ValueError:
        scheme = host = ""
    if not location or scheme not in {"http", "https"} or not host or not url.isprintable():
        raise ProtocolError(f"{what} sent us on to something that is no address")
    if scheme == "http" and base.startswith("https:"):
        raise ProtocolError(f"{what} sent us on to {host} in plain HTTP: not followed")
    return url


def parse_next_link(header: str) -> str | None:
    """The next page of a list (RFC 8288 Link with rel=next)."""
    found = _NEXT_LINK.search(header[:8192])
    return found[1] if found else None


def plan_retry(error: CafsError, attempt: int, retries: int, jitter: float) -> float | None:
    """How long to wait before trying again after failure number ``attempt`` (from 1); None: give up.

    Args:
        jitter: Uniform in [0, 1).
    """
    if not isinstance(error, RemoteError) or isinstance(error, AuthError | LastingError) or attempt > retries:
        return None
    backoff = min(_FIRST_WAIT_S * 2.0 ** min(attempt - 1, 16), _LONGEST_WAIT_S) * (0.5 + jitter)
    return max(backoff, min(error.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S))
