"""What tasks, hosts and downloads are called, and what of an address may be told to others. Pure.

A task's name is computed from what somebody wants, by every host alike; nobody can choose one. What needs
credentials has names of its own: who asks without any can never meet a swarm of private content.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import NewType
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from cafs.core.credentials import is_secret_field, query_has_secrets
from cafs.errors import UsageError

TaskId = NewType("TaskId", str)
"""64 lower-case hex digits."""
HostId = NewType("HostId", str)
"""32 lower-case hex digits, random, kept in the peer's data directory."""
PeerId = NewType("PeerId", str)
"""32 lower-case hex digits: one download of one task on one host."""

_PUBLIC, _PRIVATE = b"cafs-task-1", b"cafs-task-private-1"
_TASK = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[0-9a-f]{32}")
_DEFAULT_PORTS = {"http": 80, "https": 443}
OWN_CREDENTIALS = ("x-cafs-credentials", "own")
"""Header of a wish for a source that is not HTTP's: the peer asks with its own credentials."""


def parse_task_id(text: str) -> TaskId:
    """Check the form of ``text``.

    Raises:
        UsageError: it is no task's name.
    """
    if not _TASK.fullmatch(text):
        raise UsageError(f"not a task id: {text[:80]!r} (64 hex digits)")
    return TaskId(text)


def parse_host_id(text: str) -> HostId:
    """Check the form of ``text``.

    Raises:
        UsageError: it is no host's name.
    """
    if not _HOST.fullmatch(text):
        raise UsageError(f"not a host id: {text[:80]!r} (32 hex digits)")
    return HostId(text)


def task_id(
    url: str,
    *,
    tag: str = "",
    application: str = "",
    digest: str = "",
    filtered_query: Sequence[str] = (),
    private: bool = False,
) -> TaskId:
    """The name of one content.

    Fields are hashed with their lengths, so no two wishes meet by concatenation.

    Args:
        url: Where it comes from. Does not count when there is a digest: then the content is the same
            wherever it comes from.
        tag: Keeps contents of one address apart on purpose.
        application: As ``tag``.
        digest: ``sha256:...`` or empty.
        filtered_query: Names of query parameters that make no difference.
        private: The origin is asked with credentials.

    Raises:
        UsageError: the url is none.
    """
    address = "" if digest else canonical_url(url, filtered_query)
    hasher = hashlib.sha256()
    for text in (_PRIVATE if private else _PUBLIC, address, tag, application, digest):
        field = text.encode() if isinstance(text, str) else text
        hasher.update(len(field).to_bytes(8, "little") + field)
    return TaskId(hasher.hexdigest())


def canonical_url(url: str, filtered_query: Iterable[str] = ()) -> str:
    """``url`` without userinfo, fragment and the named parameters; what is left keeps its order.

    Raises:
        UsageError: the url is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise UsageError(f"not a url: {e}") from None
    if not parts.scheme:
        raise UsageError("not a url: it has no scheme")
    drop = frozenset(filtered_query)
    kept = [field for field in parts.query.split("&") if unquote_plus(field.partition("=")[0]) not in drop]
    query = "&".join(kept) if drop else parts.query
    return urlunsplit(
        (parts.scheme, _authority(parts.scheme, parts.hostname or "", port), parts.path, query, "")
    )


def _authority(scheme: str, host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{name}:{port}"


def url_has_credentials(url: str) -> bool:
    """Does the address itself let somebody in?"""
    parts = urlsplit(url)
    return "@" in parts.netloc or query_has_secrets(parts.query)


def headers_have_credentials(headers: Iterable[tuple[str, str]]) -> bool:
    """Do these request headers say who asks?"""
    return any(is_secret_field(name) for name, _ in headers)


def is_private(url: str, headers: Iterable[tuple[str, str]]) -> bool:
    """May the origin answer others differently?"""
    return url_has_credentials(url) or headers_have_credentials(headers)


def tellable_url(url: str, filtered_query: Iterable[str] = (), *, private: bool) -> str:
    """What others may see of ``url``: no more than scheme, host and path if it is private.

    Raises:
        UsageError: the url is none.
    """
    if not private:
        return canonical_url(url, filtered_query)
    parts = urlsplit(canonical_url(url))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
