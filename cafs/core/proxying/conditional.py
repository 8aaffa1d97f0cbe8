"""Conditional requests: what a client has already, against what there is. Pure.

Source: RFC 9110, 13.1 (preconditions), 13.2.2 (their precedence), 8.8.3.2 (comparison of entity tags).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum

CONDITIONS = frozenset(("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"))
_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Verdict(Enum):
    """What a conditional GET gets."""

    PROCEED = 200
    NOT_MODIFIED = 304
    FAILED = 412


def judge(conditions: Mapping[str, str], etag: str, last_modified: str) -> Verdict:
    """Weigh the conditions of a GET or HEAD.

    Args:
        conditions: Fields of the request by name in small letters; others than ``CONDITIONS`` do not matter.
        etag: Of the content, empty when the origin tells none.
        last_modified: The same.
    """
    if "if-match" in conditions:
        if not _any_matches(conditions["if-match"], etag, weakly=False):
            return Verdict.FAILED
    elif "if-unmodified-since" in conditions:
        since = _newer(last_modified, conditions["if-unmodified-since"])
        if since:
            return Verdict.FAILED
    if "if-none-match" in conditions:
        matches = _any_matches(conditions["if-none-match"], etag, weakly=True)
        return Verdict.NOT_MODIFIED if matches else Verdict.PROCEED
    if "if-modified-since" in conditions and _newer(last_modified, conditions["if-modified-since"]) is False:
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def range_holds(if_range: str, etag: str, last_modified: str) -> bool:
    """Whether a Range with this If-Range may be answered with a part: else the whole is sent."""
    if if_range.lstrip().startswith(('"', "W/")):
        return _any_matches(if_range, etag, weakly=False)
    return bool(last_modified) and if_range.strip() == last_modified.strip()


def _any_matches(field: str, etag: str, *, weakly: bool) -> bool:
    if field.strip() == "*":
        return True
    ours = _TAG.fullmatch(etag.strip())
    if ours is None or (ours[1] and not weakly):
        return False
    return any(tag == ours[2] and (weakly or not weak) for weak, tag in _TAG.findall(field))


def _newer(last_modified: str, since: str) -> bool | None:
    """Whether the content changed after ``since``; None when a date is missing or senseless."""
    changed, known = _parse_date(last_modified), _parse_date(since)
    return None if changed is None or known is None else changed > known


def _parse_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo is not None else None
