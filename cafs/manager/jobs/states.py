"""A job and its hosts' parts as state machines. Pure: no database, no clock.

A job: pending, running, then succeeded, failed or cancelled. A host's part: waiting, told, then succeeded,
failed or cancelled; one that failed waits again as long as the job's retries last. A job that has ended has
no part that is waiting or told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cafs.errors import StateError


class JobState(StrEnum):
    """Of a job."""

    PENDING = "pending"
    """Nobody has chosen its hosts yet."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """All of its hosts have done it."""
    FAILED = "failed"
    """Some have not."""
    CANCELLED = "cancelled"


class PartState(StrEnum):
    """Of a host's part in a job."""

    WAITING = "waiting"
    """For others to have done theirs, or for the host to be here."""
    TOLD = "told"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


CONVERT = "convert"
"""The kind of jobs that a replica of the manager does itself, as their only host."""
ACTIVE = frozenset([JobState.PENDING, JobState.RUNNING])
OPEN = frozenset([PartState.WAITING, PartState.TOLD])


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A running job, as its parts are."""

    open: int
    """Waiting or told."""
    waiting_here: int
    """Waiting, and their hosts are active."""
    told_here: int
    done: int
    """Succeeded."""
    total: int
    concurrency: int
    late: bool
    """Its time is over."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about a running job."""

    release: int = 0
    """So many of the waiting parts, whose hosts are active, are told."""
    give_up: bool = False
    """What is open has failed."""
    ends: JobState | None = None


def next_step(seen: Seen) -> Step:
    """Decide."""
    if seen.open and seen.late:
        return Step(give_up=True, ends=JobState.FAILED)
    if not seen.open:
        return Step(ends=JobState.SUCCEEDED if seen.done == seen.total else JobState.FAILED)
    # A host that was told and went away has no place: it may never come back.
    return Step(release=max(0, min(seen.waiting_here, seen.concurrency - seen.told_here)))


def cancelled(state: JobState) -> JobState:
    """The state of a job that somebody cancels.

    Raises:
        StateError: it has ended.
    """
    if state not in ACTIVE:
        raise StateError(f"it has {state} already")
    return JobState.CANCELLED


def retried(state: JobState, *, chosen: bool) -> JobState:
    """The state of a job that somebody wants again.

    Args:
        state: As it is.
        chosen: It has hosts.

    Raises:
        StateError: there is nothing to be done again.
    """
    if state not in {JobState.FAILED, JobState.CANCELLED}:
        raise StateError(f"it is {state}: what failed or was cancelled can be done again")
    return JobState.RUNNING if chosen else JobState.PENDING


class Progress(StrEnum):
    """What a host says of its part."""

    DOING = "doing"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A host's word."""

    attempt: int
    progress: Progress
    done_bytes: int = 0
    total_bytes: int = 0
    """0: not known."""
    why: str = ""
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A host's part."""

    state: PartState = PartState.WAITING
    attempt: int = 0
    """How often it was told."""
    failures: int = 0
    """Since somebody asked for it."""


def told(part: Part) -> Part:
    """The host is told."""
    return replace(part, state=PartState.TOLD, attempt=part.attempt + 1)


def reported(part: Part, report: Report, retries: int) -> Part:
    """After the host's word; one about another attempt, or that nobody waits for, changes nothing."""
    if part.state is not PartState.TOLD or report.attempt != part.attempt:
        return part
    match report.progress:
        case Progress.DOING:
            return part
        case Progress.DONE:
            return replace(part, state=PartState.SUCCEEDED)
    again = part.failures < retries
    return replace(part, state=PartState.WAITING if again else PartState.FAILED, failures=part.failures + 1)
