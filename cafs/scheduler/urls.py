"""Urls as the scheduler may know them: without anything that could be a secret. Pure.

Peers cut their urls before they send them; what a careless one sends all the same is cut here, before it is
kept or logged anywhere, and its task is no seed's any more.
"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from cafs.core.swarm.ids import url_has_credentials

_MOST = 8192


def is_clean(url: str) -> bool:
    """Nothing in it looks like a secret."""
    if not url:
        return True
    try:
        return (
            len(url) <= _MOST
            and url.isprintable()
            and not urlsplit(url).fragment
            and not url_has_credentials(url)
        )
    except ValueError:
        return False


def cut(url: str) -> str:
    """Scheme, host and path; empty when it is no url."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    short = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return short if short.isprintable() and len(short) <= _MOST else ""
