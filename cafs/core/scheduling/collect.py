"""What time brings, in small shares: hosts and tasks go, patience ends, large swarms are told."""

from __future__ import annotations

from itertools import islice

from cafs.core.scheduling.decisions import Disconnect, ForgetTask
from cafs.core.scheduling.events import ForgetReason, HostLeft
from cafs.core.scheduling.hosts import left
from cafs.core.scheduling.membership import leave, revoke
from cafs.core.scheduling.mesh import connect, flush, tell_digests, unlink
from cafs.core.scheduling.records import Member, Peer, Task
from cafs.core.scheduling.shunning import pardon
from cafs.core.scheduling.source import (
    consider,
    may_go,
    refuse,
    send,
    source_failed,
    stalled_there,
)
from cafs.core.scheduling.state import State
from cafs.core.scheduling.states import PeerState, TaskState, TaskStep
from cafs.core.swarm.priorities import policy_of

_SHARE = 64
"""Hosts, downloads and tasks looked at in one tick."""


def tick(state: State, now: float) -> None:
    """Do what is due, oldest first, and no more than a tick may take."""
    _silent_hosts(state, now)
    for host_id in state.court.end_due(now):
        pardon(state, host_id, now)
    _impatience(state, now)
    _away(state, now)
    for peer in list(islice(state.waiting, _SHARE)):
        if peer not in state.waiting:
            continue  # what was done for one before it has ended it, too
        if peer.checked_at + state.limits.stall_s > now:
            break
        del state.waiting[peer]
        state.waiting[peer] = None
        stalled = peer.progress_at + state.limits.stall_s <= now
        peer.checked_at = now if stalled else peer.progress_at
        if stalled:
            _stalled(state, peer, now)
    _old_tasks(state, now)
    for task in list(state.news_large):
        if task.told_at + state.limits.digests_every_s <= now:
            tell_digests(state, task, now)
    for member in list(islice(state.dirty_large, state.limits.flush_per_tick)):
        flush(state, member, now)


def _silent_hosts(state: State, now: float) -> None:
    for host in list(islice(state.hosts.values(), _SHARE)):
        if host.seen_at + state.limits.gone_after_s > now:
            break
        state.counts["hosts_silent"] += 1
        left(state, HostLeft(host.id), now)
        # A link that was cut for a while breaks no stream: what comes on it would be a stranger's for ever.
        state.decide(Disconnect((host.id,), "you were silent for too long"))


def _impatience(state: State, now: float) -> None:
    for task in [task for task in state.seeding if task.seeding_until <= now]:
        source_failed(state, task, None, now, "the seed did not begin in time")
        consider(state, task, now)


def _away(state: State, now: float) -> None:
    """Who was killed at the source brings nothing, and all others wait for it."""
    for peer, since in list(islice(state.away.items(), _SHARE)):
        if since + state.limits.seed_patience_s > now:
            break
        if peer not in state.away:
            continue
        _replace_at_source(state, peer, now, "its stream broke, and it did not come back")


def _replace_at_source(state: State, peer: Peer, now: float, why: str) -> None:
    """Somebody else shall go."""
    peer.source_failed = True
    revoke(state, peer, why)
    stalled_there(state, peer.member.task, peer, now, why)
    consider(state, peer.member.task, now)


def _stalled(state: State, peer: Peer, now: float) -> None:
    """It got nothing for long: new parents, at last the source."""
    peer.progress_at = now
    peer.stalls += 1
    task, member = peer.member.task, peer.member
    if peer.state is PeerState.AT_SOURCE:
        _replace_at_source(state, peer, now, "nothing came for long")
        return
    _other_parents(state, member, now)
    may = policy_of(task.spec.priority).peers and may_go(peer)
    if peer.stalls >= state.limits.stalls and may and len(task.at_source) < state.limits.source_peers:
        send(state, peer, now, "nothing came for long, whoever was asked")


def _other_parents(state: State, member: Member, now: float) -> None:
    old = [parent for parent in member.parents if not parent.owner and parent not in member.task.seeds]
    for parent in state.rng.sample(old, len(old) // 2):
        unlink(state, member, parent)
    connect(state, member, now, "nothing came for long")


def _old_tasks(state: State, now: float) -> None:
    for task in list(state.quarantined):
        if task.quarantined_until <= now:
            forget(state, task)
    limits = state.limits
    for task in list(islice(state.tasks.values(), _SHARE)):
        if task.checked_at + limits.empty_task_s > now:
            break
        if any(member.peer is not None for member in task.members.values()):
            state.use(task, now)
        elif task.state is TaskState.QUARANTINED:
            _keep(state, task, now)
        elif not task.members:
            forget(state, task)
        elif task.used_at + limits.task_idle_s <= now:
            expire(state, task, ForgetReason.EXPIRED, now)
        else:
            _keep(state, task, now)


def _keep(state: State, task: Task, now: float) -> None:
    """Not to be looked at for a while."""
    task.checked_at = now
    del state.tasks[task.id]
    state.tasks[task.id] = task


def expire(state: State, task: Task, why: ForgetReason, now: float) -> None:
    """Everybody deletes it, and nothing is known of it any more."""
    _empty(state, task, why, now)
    forget(state, task)


def quarantine(state: State, task: Task, now: float) -> None:
    """Everybody deletes it, and for a while nobody gets it."""
    if not state.is_live(task):
        return
    state.explain(now, task, "forget", "the whole content is not what its digest says")
    _empty(state, task, ForgetReason.QUARANTINED, now)
    task.step(TaskStep.QUARANTINE)
    task.quarantined_until = now + state.limits.quarantine_s
    state.quarantined[task] = None


def _empty(state: State, task: Task, why: ForgetReason, now: float) -> None:
    to = tuple(task.members)
    if task.seeding and task.seeding not in task.members:
        to = (*to, task.seeding)
    task.seeding = ""
    state.seeding.pop(task, None)
    if to:
        state.decide(ForgetTask(to, task.id, why))
    word = "quarantined" if why is ForgetReason.QUARANTINED else "deleted"
    for member in list(task.members.values()):
        if member.peer is not None:
            refuse(state, member.host.id, member.peer.id, word)
    for member in list(task.members.values()):
        leave(state, member, now)


def forget(state: State, task: Task) -> None:
    """Nothing is known of it any more."""
    task.step(TaskStep.FORGET)
    state.seeding.pop(task, None)
    state.quarantined.pop(task, None)
    state.forget_news(task)
    del state.tasks[task.id]
