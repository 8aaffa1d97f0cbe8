"""Which requests go by P2P, straight, nowhere, or in TLS: regular expressions, the first match wins. Pure.

A rule is written ``ACTION REGEX``, and the expression is searched for anywhere in the whole address
(``scheme://host[:port]/path?query``), so ``^`` and ``$`` say what must be at its ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cafs.errors import UsageError

_MAX_LETTERS = 1000


class Action(StrEnum):
    """What becomes of a request."""

    P2P = "p2p"
    """Content: through the swarm."""
    DIRECT = "direct"
    """Straight to the origin."""
    BLOCKED = "blocked"
    """Answered with 403."""
    HTTPS = "https"
    """Asked of the origin in TLS although the client spoke plain HTTP to us; by P2P if it is content."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the setting ``proxy_rules``."""

    action: Action
    pattern: re.Pattern[str]

    def __str__(self) -> str:
        return f"{self.action} {self.pattern.pattern}"


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Read the setting ``proxy_rules``.

    Raises:
        UsageError: one of them is none; the message counts from 1.
    """
    return tuple(_parse_rule(text, number) for number, text in enumerate(texts, 1))


def _parse_rule(text: str, number: int) -> Rule:
    action, _, pattern = text.strip().partition(" ")
    known = ", ".join(Action)
    if action not in set(Action) or not pattern.strip():
        raise UsageError(
            f"rule {number}, {text[:80]!r}: expected ACTION REGEX, where ACTION is one of {known}"
        )
    if len(pattern) > _MAX_LETTERS:
        raise UsageError(f"rule {number}: the expression is longer than {_MAX_LETTERS} letters")
    try:
        return Rule(Action(action), re.compile(pattern.strip()))
    except (re.error, RecursionError, OverflowError) as e:
        raise UsageError(f"rule {number}, {text[:80]!r}: no regular expression: {e}") from e


def first_match(rules: Sequence[Rule], url: str) -> Rule | None:
    """The rule that decides about ``url``."""
    return next((rule for rule in rules if rule.pattern.search(url)), None)
