"""What to do after a source failed: ask which one next, after how long, or give up. Pure.

The answers a chunk's sources gave so far go in, the next step comes out. Randomness is handed in
(``jitter``), time is not needed: waits are relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cafs.errors import AuthError, CafsError, DeadlineError, IntegrityError, NotFoundError, RemoteError

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
"""Short, so that the first read after a registry came back does not wait long for a retry."""
LONGEST_RETRY_AFTER_S = 30.0
"""No origin may silence us for longer, whatever its Retry-After says."""
WRONG_BYTES_TWICE = 2
"""A second wrong answer of one source for one chunk is taken for damage, not for accident."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One failed answer of one source."""

    source: int
    """Its number in the order in which sources are asked."""
    source_name: str
    error: CafsError
    at: float
    """Seconds since the epoch, for the journal."""

    @property
    def retry_after_s(self) -> float:
        """How long the source asked to be left alone; 0 if it did not say."""
        said = self.error.retry_after_s if isinstance(self.error, RemoteError) else None
        return min(max(said, 0.0), LONGEST_RETRY_AFTER_S) if said is not None else 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this source, after waiting so long."""

    source: int
    wait_s: float


def plan_next(answers: Sequence[Answer], sources: int, *, jitter: float) -> Ask | None:
    """Which source to ask next, or None when nobody is left to ask.

    Sources are asked in order, each at once when the one before it failed; when all of a round failed,
    the next round waits, twice as long each time. A source that said no for good (not found, credentials
    refused, wrong bytes twice) is not asked again.

    Args:
        answers: All that failed so far, oldest first.
        sources: How many there are.
        jitter: Uniform in [0, 1); spreads retries of many readers.
    """
    usable = [s for s in range(sources) if not _refused_for_good(answers, s)]
    if not usable:
        return None
    asked = {s: sum(a.source == s for a in answers) for s in usable}
    source = min(usable, key=lambda s: (asked[s], s))
    if not asked[source]:
        return Ask(source, 0.0)
    backoff = min(FIRST_WAIT_S * 2.0 ** min(asked[source] - 1, 16), LONGEST_WAIT_S) * (0.5 + jitter)
    told = next((a.retry_after_s for a in reversed(answers) if a.source == source), 0.0)
    return Ask(source, max(backoff, told))


def rounds(answers: Sequence[Answer]) -> int:
    """How often the most asked source was asked."""
    counts: dict[int, int] = {}
    for answer in answers:
        counts[answer.source] = counts.get(answer.source, 0) + 1
    return max(counts.values(), default=0)


def describe(answers: Sequence[Answer], what: str) -> str:
    """One line: what could not be had and what each source said last."""
    last = {answer.source_name: answer.error for answer in answers}
    said = "; ".join(attribute(str(error), name) for name, error in last.items())
    return f"{what}: {said}" if said else f"{what}: no source answered"


def attribute(message: str, source: str) -> str:
    """What a source said, and that it was this one: most say so themselves."""
    return message if source in message else f"{source}: {message}"


def final_error(answers: Sequence[Answer], what: str) -> CafsError:
    """The error that readers get when nobody is left to ask. A fresh one for each call."""
    message = describe(answers, what)
    errors = [answer.error for answer in answers]
    for kind in (IntegrityError, NotFoundError, AuthError, DeadlineError):
        if errors and all(isinstance(error, kind) for error in errors):
            return kind(message)
    return RemoteError(message)


def _refused_for_good(answers: Sequence[Answer], source: int) -> bool:
    errors = [answer.error for answer in answers if answer.source == source]
    wrong_bytes = sum(isinstance(error, IntegrityError) for error in errors)
    refused = any(isinstance(error, NotFoundError | AuthError) for error in errors)
    return refused or wrong_bytes >= WRONG_BYTES_TWICE
