"""What hosts say of themselves: hello, alive, gone."""

from __future__ import annotations

from cafs.core.scheduling.decisions import ForgetTask, Welcome
from cafs.core.scheduling.events import ForgetReason, Held, HostAlive, HostHello, HostLeft, HostLost
from cafs.core.scheduling.membership import end_peer, enter, leave, set_have
from cafs.core.scheduling.mesh import drop_owner, tell_children
from cafs.core.scheduling.records import Host, Member
from cafs.core.scheduling.source import consider, source_failed
from cafs.core.scheduling.state import State
from cafs.core.scheduling.states import HostState, HostStep, PeerStep


def hello(state: State, event: HostHello, now: float) -> None:
    """A host is here, or here again: what it holds now is all that it holds."""
    host = state.hosts.get(event.host_id)
    if host is None:
        if len(state.hosts) >= state.limits.hosts:
            state.counts["hosts_too_many"] += 1
            return
        host = state.hosts[event.host_id] = Host(event)
    moved = host.hello.address != event.address or host.hello.type is not event.type
    host.step(HostStep.HELLO)
    host.hello = event
    host.upload_limit = event.upload_limit
    host.uploads = 0
    if state.is_seed(host):
        state.seeds[host.id] = host
    else:
        state.seeds.pop(host.id, None)
    _heard(state, host, now)
    state.decide(Welcome((host.id,), state.limits.alive_every_s))
    held = {one.spec.task_id: one for one in event.held}
    for member in list(host.members.values()):
        _begin_again(state, member, now, stays=member.task.id in held and not moved)
    for one in held.values():
        _hold(state, host, one, now)


def _begin_again(state: State, member: Member, now: float, *, stays: bool) -> None:
    """The download that was under way is registered anew, if it still is one."""
    if member.peer is not None:
        end_peer(state, member.peer, PeerStep.LEAVE, now, stays=True)
    if not member.complete:
        drop_owner(state, member)
    if not stays:
        depart(state, member, now)


def _hold(state: State, host: Host, held: Held, now: float) -> None:
    task = state.task_for(held.spec, now)
    if task is None:
        return
    if not state.is_live(task):
        state.decide(ForgetTask((host.id,), task.id, ForgetReason.QUARANTINED))
        return
    notary = task.notary
    if not notary.learn(held.meta) or held.have.bit_length() > (notary.pieces or state.limits.pieces):
        state.counts["held_contradicts"] += 1
        if (member := task.members.get(host.id)) is not None:
            depart(state, member, now)
        return
    have = notary.record_all(held.have, held.digests) if held.digests else held.have
    if notary.has_news:
        state.mark_news(task)
    member = enter(state, host, task)
    set_have(state, member, have)
    tell_children(state, member)
    consider(state, task, now)


def alive(state: State, event: HostAlive, now: float) -> None:
    """A host's regular word."""
    host = state.hosts.get(event.host_id)
    if host is None or host.state is HostState.SILENT:
        return
    _heard(state, host, now)
    host.uploads = event.uploads
    host.upload_bytes_per_s = event.upload_bytes_per_s
    host.download_bytes_per_s = event.download_bytes_per_s
    if event.upload_limit:
        host.upload_limit = event.upload_limit
    if event.draining and host.state is HostState.ALIVE:
        host.step(HostStep.DRAIN)
    elif not event.draining and host.state is HostState.DRAINING:
        host.step(HostStep.UNDRAIN)


def _heard(state: State, host: Host, now: float) -> None:
    host.seen_at = now
    del state.hosts[host.id]
    state.hosts[host.id] = host


def lost(state: State, event: HostLost, now: float) -> None:
    """Its stream broke. It keeps its place for a while, at the source not so long."""
    host = state.hosts.get(event.host_id)
    if host is None:
        return
    host.step(HostStep.LOSE)
    for member in host.members.values():
        if member.peer is not None and member.at_source:
            state.away[member.peer] = now


def left(state: State, event: HostLeft, now: float) -> None:
    """It ended, or it was silent for too long."""
    host = state.hosts.get(event.host_id)
    if host is None:
        return
    host.step(HostStep.LEAVE)
    del state.hosts[host.id]
    state.seeds.pop(host.id, None)
    for member in list(host.members.values()):
        depart(state, member, now)
    for task in [task for task in state.seeding if task.seeding == host.id]:
        source_failed(state, task, None, now, "the seed went away")
        consider(state, task, now)


def depart(state: State, member: Member, now: float) -> None:
    """Out of this swarm, and the others are seen to."""
    leave(state, member, now)
    consider(state, member.task, now)
