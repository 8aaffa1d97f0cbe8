"""For how long what an origin said may be believed without asking it again. Pure.

As a shared HTTP cache decides (RFC 9111, section 4.2): the origin's own word (Cache-Control, Expires), else a
tenth of the content's age when the origin was asked, at most a day.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from cafs.core.swarm.task import Headers, TaskMeta

AGE_SHARE, MOST_GUESSED_S = 0.1, 86_400.0
_SECONDS = re.compile("[0-9]{1,12}")


def is_fresh(meta: TaskMeta, now_s: float, sent: Headers = ()) -> bool:
    """Whether the content need not be asked for, at ``now_s`` since the epoch.

    Args:
        meta: What the origin said.
        now_s: The time.
        sent: The header of the wish: a client may want the origin's word anew (RFC 9111, 5.2.1 and 5.4).
    """
    said_at = meta.asked_at_s or _time(meta.header("date"))
    if said_at is None or said_at > now_s:  # nobody knows when, or a clock went back
        return False
    return now_s - said_at < min(_lifetime_s(meta, said_at), taken_for_s(sent))


def said_since(meta: TaskMeta, at_s: float, now_s: float) -> bool:
    """Whether the origin said it after a wish began at ``at_s``, or in the same second.

    What it says that it will say only later was said by a clock that is wrong: nobody knows when.
    """
    said_at = _time(meta.header("date"))
    return said_at is not None and at_s < said_at + 1.0 <= now_s + 2.0


def dated(headers: Headers, now_s: float) -> Headers:
    """The headers of an answer that came at ``now_s``, for others, with a date (RFC 9110, 6.6.1)."""
    if any(name.lower() == "date" for name, _ in headers):
        return headers
    return (("date", formatdate(now_s, usegmt=True)), *headers)


def taken_for_s(sent: Headers) -> float:
    """How old a client takes an origin's word; infinite if it does not say."""
    said = [value for name, value in sent if name.lower() == "cache-control"]
    if not said:
        said = [value for name, value in sent if name.lower() == "pragma"]
    directives = _directives(",".join(said))
    if {"no-cache", "no-store"} & {*directives}:
        return 0.0
    age_s = _seconds_of("max-age=", directives)
    return float("inf") if age_s is None else age_s


def origin_said_at(headers: Headers, now_s: float) -> float:
    """When the origin itself said what came at ``now_s``: a cache on the way may have held it (``Age``)."""
    lower = ((name.lower(), value) for name, value in headers)
    age = next((value for name, value in lower if name == "age"), "")
    return max(1.0, now_s - int(age)) if _SECONDS.fullmatch(age) else now_s


def _lifetime_s(meta: TaskMeta, said_at: float) -> float:
    directives = _directives(meta.header("cache-control") or "")
    if {"no-cache", "no-store", "must-revalidate"} & {*directives}:
        return 0.0
    for name in ("s-maxage=", "max-age="):
        if (seconds := _seconds_of(name, directives)) is not None:
            return seconds
    if (expires := meta.header("expires")) is not None:
        at = _time(expires)
        return 0.0 if at is None else at - (_time(meta.header("date")) or said_at)
    changed = _time(meta.header("last-modified"))
    if changed is None:
        return 0.0
    return min(max(0.0, said_at - changed) * AGE_SHARE, MOST_GUESSED_S)


def _directives(cache_control: str) -> list[str]:
    return [part.strip().lower() for part in cache_control.split(",")]


def _seconds_of(name: str, directives: list[str]) -> float | None:
    for directive in directives:
        seconds = directive.removeprefix(name).strip('"')
        if directive.startswith(name) and seconds.isdecimal():
            return float(seconds)
    return None


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
