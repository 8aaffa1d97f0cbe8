"""Urls as the scheduler may know them: without anything that could be a secret. Pure.

Peers cut their urls before they send them; what a careless one sends all the same is cut here, before it is
kept or logged anywhere, and its task is no seed's any more.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

_SECRET_KEY = re.compile(
    r"sig|signature|token|secret|password|passwd|credential|api-?_?key|auth|jwt|session|policy|key-pair-id"
    r"|awsaccesskeyid|googleaccessid|x-(amz|goog|oss|cos|obs)-\S*",
    re.IGNORECASE,
)
_MOST = 8192


def is_clean(url: str) -> bool:
    """Nothing in it looks like a secret."""
    if not url:
        return True
    try:
        parts = urlsplit(url)
        keys = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True, max_num_fields=256)]
    except ValueError:
        return False
    return (
        len(url) <= _MOST
        and url.isprintable()
        and not parts.fragment
        and "@" not in parts.netloc
        and not any(_SECRET_KEY.search(key) for key in keys)
    )


def cut(url: str) -> str:
    """Scheme, host and path; empty when it is no url."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    short = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return short if short.isprintable() and len(short) <= _MOST else ""
