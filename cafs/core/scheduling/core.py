"""The scheduler: one method, events in, decisions out. Everything else of this package is how it decides.

Not to be called concurrently. After an exception, which only a mistake in here can cause, the state is not
to be trusted: the shell starts anew, and hosts tell what they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from cafs.core.scheduling import hosts, peers
from cafs.core.scheduling.collect import expire, tick
from cafs.core.scheduling.decisions import Decision
from cafs.core.scheduling.events import (
    DeleteTask,
    Event,
    ForgetReason,
    HostAlive,
    HostHello,
    HostLeft,
    HostLost,
    PeerFinished,
    PeerLeft,
    PeerRegister,
    PieceFailed,
    PiecesFinished,
    TaskMeta,
    TasksDropped,
    Tick,
)
from cafs.core.scheduling.limits import Limits
from cafs.core.scheduling.mesh import flush, tell_digests
from cafs.core.scheduling.state import State


def _ticked(state: State, event: Tick, now: float) -> None:
    tick(state, now)


def _delete(state: State, event: DeleteTask, now: float) -> None:
    task = state.tasks.get(event.task_id)
    if task is not None and state.is_live(task):
        expire(state, task, ForgetReason.DELETED, now)


_HANDLERS: dict[type, Callable[[State, Any, float], None]] = {
    HostHello: hosts.hello,
    HostAlive: hosts.alive,
    HostLost: hosts.lost,
    HostLeft: hosts.left,
    PeerRegister: peers.register,
    TaskMeta: peers.meta,
    PiecesFinished: peers.pieces,
    PieceFailed: peers.failed,
    PeerFinished: peers.finished,
    PeerLeft: peers.left,
    TasksDropped: peers.dropped,
    DeleteTask: _delete,
    Tick: _ticked,
}


class Scheduling:
    """One scheduler."""

    def __init__(self, limits: Limits, rng: Random) -> None:
        self.state = State(limits, rng)

    def change(self, limits: Limits) -> None:
        """From now on these numbers count; what was decided by others stays until it is decided anew."""
        self.state.limits = limits

    def handle(self, event: Event, now: float) -> list[Decision]:
        """What follows from ``event``, in the order in which it is to be told.

        Args:
            event: What happened.
            now: Seconds on a clock that never goes back.
        """
        state = self.state
        _HANDLERS[type(event)](state, event, now)
        if state.news or state.dirty:
            self._tell(now)
        out, state.out = state.out, []
        if state.last:
            out += state.last
            state.last = []
        return out

    @property
    def behind(self) -> bool:
        """Members of large swarms wait to be told: the next tick may come soon."""
        return bool(self.state.dirty_large)

    def _tell(self, now: float) -> None:
        """Small swarms hear at once."""
        state = self.state
        for task in list(state.news):
            if len(task.members) <= state.limits.small_swarm:
                tell_digests(state, task, now)
        while state.dirty:
            flush(state, next(iter(state.dirty)), now)
