"""Hosts, tasks and peers as state machines: three tables. A step that is not in a table cannot be taken.

After h11's way: whoever wants to know what can follow what reads the tables; nothing else changes a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar


class HostState(Enum):
    """Of a machine."""

    NEW = auto()
    ALIVE = auto()
    DRAINING = auto()
    """Gives what it has, is nobody's new parent."""
    SILENT = auto()
    """Its stream broke. Others may still reach it."""
    GONE = auto()


class HostStep(Enum):
    """What happens to a host."""

    HELLO = auto()
    DRAIN = auto()
    UNDRAIN = auto()
    LOSE = auto()
    LEAVE = auto()


class PeerState(Enum):
    """Of a download."""

    RUNNING = auto()
    """Waits for others, or downloads from them."""
    AT_SOURCE = auto()
    """Was told to go to the source, and may."""
    EXCHANGING = auto()
    """Wants no pieces: chunks by their digests."""
    SUCCEEDED = auto()
    FAILED = auto()
    LEFT = auto()
    REFUSED = auto()


class PeerStep(Enum):
    """What happens to a download."""

    SEND = auto()
    REVOKE = auto()
    SUCCEED = auto()
    FAIL = auto()
    LEAVE = auto()
    REFUSE = auto()


class TaskState(Enum):
    """Of a content: how more of it can come into the swarm."""

    IDLE = auto()
    """Nobody fetches it, and not all of it is here."""
    SEEDING = auto()
    """A seed was told to fetch it and has not begun."""
    FETCHING = auto()
    """Somebody is at the source."""
    SHARED = auto()
    """Every piece is held by some member."""
    QUARANTINED = auto()
    FORGOTTEN = auto()


class TaskStep(Enum):
    """What happens to a task."""

    TRIGGER = auto()
    """A seed was told."""
    FETCH = auto()
    """Somebody went to the source."""
    COVER = auto()
    """All pieces are held, and nobody is at the source."""
    LACK = auto()
    """Nobody is at the source, and something is missing."""
    QUARANTINE = auto()
    FORGET = auto()


_ENDED = {PeerStep.LEAVE: PeerState.LEFT}
_GOING = {
    PeerStep.SUCCEED: PeerState.SUCCEEDED,
    PeerStep.FAIL: PeerState.FAILED,
    PeerStep.LEAVE: PeerState.LEFT,
    PeerStep.REFUSE: PeerState.REFUSED,
}
PEER_TABLE: Mapping[PeerState, Mapping[PeerStep, PeerState]] = {
    PeerState.RUNNING: {PeerStep.SEND: PeerState.AT_SOURCE, **_GOING},
    PeerState.AT_SOURCE: {PeerStep.REVOKE: PeerState.RUNNING, **_GOING},
    PeerState.EXCHANGING: _GOING,
    PeerState.SUCCEEDED: _ENDED,
    PeerState.FAILED: _ENDED,
    PeerState.REFUSED: _ENDED,
    PeerState.LEFT: {},
}
UNFINISHED = frozenset({PeerState.RUNNING, PeerState.AT_SOURCE})
"""States of downloads that still want pieces."""

_AWAY = {HostStep.LOSE: HostState.SILENT, HostStep.LEAVE: HostState.GONE, HostStep.HELLO: HostState.ALIVE}
HOST_TABLE: Mapping[HostState, Mapping[HostStep, HostState]] = {
    HostState.NEW: {HostStep.HELLO: HostState.ALIVE},
    HostState.ALIVE: {HostStep.DRAIN: HostState.DRAINING, **_AWAY},
    HostState.DRAINING: {HostStep.UNDRAIN: HostState.ALIVE, **_AWAY},
    HostState.SILENT: _AWAY,
    HostState.GONE: {},
}

_ANYTHING = {
    TaskStep.TRIGGER: TaskState.SEEDING,
    TaskStep.FETCH: TaskState.FETCHING,
    TaskStep.COVER: TaskState.SHARED,
    TaskStep.LACK: TaskState.IDLE,
    TaskStep.QUARANTINE: TaskState.QUARANTINED,
    TaskStep.FORGET: TaskState.FORGOTTEN,
}
TASK_TABLE: Mapping[TaskState, Mapping[TaskStep, TaskState]] = {
    TaskState.IDLE: _ANYTHING,
    TaskState.SEEDING: _ANYTHING,
    TaskState.FETCHING: {step: to for step, to in _ANYTHING.items() if step is not TaskStep.TRIGGER},
    TaskState.SHARED: _ANYTHING,
    TaskState.QUARANTINED: {TaskStep.FORGET: TaskState.FORGOTTEN},
    TaskState.FORGOTTEN: {},
}

_State = TypeVar("_State", bound=Enum)
_Step = TypeVar("_Step", bound=Enum)


class ImpossibleStepError(Exception):
    """The tables do not have this step: a mistake in the core, never somebody else's."""


def take(table: Mapping[_State, Mapping[_Step, _State]], state: _State, step: _Step) -> _State:
    """The state after ``step``.

    Raises:
        ImpossibleStepError: it cannot be taken.
    """
    try:
        return table[state][step]
    except KeyError:
        raise ImpossibleStepError(f"{step.name} in {state.name}") from None
