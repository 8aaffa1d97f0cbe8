"""Hosts enter and leave swarms, and what they hold counts or not."""

from __future__ import annotations

from cafs.core.scheduling.coverage import settle
from cafs.core.scheduling.decisions import GoToSource
from cafs.core.scheduling.mesh import drop_owner, forget_parents, link, orphan_all
from cafs.core.scheduling.records import Host, Member, Peer, Task
from cafs.core.scheduling.state import State
from cafs.core.scheduling.states import PeerStep


def enter(state: State, host: Host, task: Task) -> Member:
    """The host's place in the swarm, made when it has none."""
    member = task.members.get(host.id)
    if member is not None:
        return member
    member = Member(host, task, shunned=state.court.shunned(host.id))
    task.members[host.id] = member
    host.members[task.id] = member
    admit(state, member)
    return member


def admit(state: State, member: Member) -> None:
    task = member.task
    if not state.is_seed(member.host):
        task.crowd.add(member)
        return
    if member.shunned:
        return
    task.seeds[member] = None
    for peer in task.active:
        if peer.member is not member and state.may_serve(member):
            link(state, peer.member, member)


def set_have(state: State, member: Member, have: int) -> None:
    """It holds exactly these pieces."""
    task = member.task
    if member.have & ~have:
        task.covered = False
    member.have = have
    pieces = task.notary.pieces
    everything = task.notary.everything
    complete = pieces is not None and have & everything == everything
    if complete != member.complete:
        member.complete = complete
        if not member.shunned:
            task.complete += 1 if complete else -1
        if not complete:
            task.covered = False


def leave(state: State, member: Member, now: float) -> None:
    """The host is in this swarm no more. Whoever calls sees to what others now lack."""
    task = member.task
    if member.peer is not None:
        end_peer(state, member.peer, PeerStep.LEAVE, now, stays=True)
    expel(state, member)
    task.crowd.discard(member)
    forget_parents(state, member)
    del task.members[member.host.id]
    del member.host.members[task.id]
    settle(task)


def expel(state: State, member: Member) -> None:
    """Nobody is to ask it, and what it has does not count."""
    task = member.task
    task.seeds.pop(member, None)
    if not member.shunned:
        task.complete -= member.complete
    member.shunned = True
    if member.have:
        task.covered = False
    orphan_all(state, member)
    drop_owner(state, member)
    settle(task)


def revoke(state: State, peer: Peer, why: str) -> None:
    """It goes to the source no more."""
    peer.step(PeerStep.REVOKE)
    task = peer.member.task
    task.at_source.pop(peer, None)
    state.away.pop(peer, None)
    state.decide(GoToSource((peer.member.host.id,), peer.id, why, revoked=True))
    settle(task)


def end_peer(state: State, peer: Peer, step: PeerStep, now: float, *, stays: bool = False) -> None:
    """A download is over. What it got stays, and so does the member if it has anything (or ``stays``)."""
    member = peer.member
    task = member.task
    peer.step(step)
    task.active.pop(peer, None)
    task.at_source.pop(peer, None)
    state.waiting.pop(peer, None)
    state.away.pop(peer, None)
    state.peers.pop(peer.id, None)
    member.host.peers.discard(peer.id)
    member.peer = None
    member.avoided.clear()
    forget_parents(state, member)
    member.version = 0
    if not task.active:
        task.failed_seeds.clear()
    settle(task)
    if stays:
        return
    if not member.have and not member.complete:
        leave(state, member, now)
        return
    if member.owner and not member.complete:
        drop_owner(state, member)
