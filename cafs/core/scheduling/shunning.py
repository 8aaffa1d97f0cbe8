"""Who is nobody's parent for a while: those that gave wrong bytes, or that many could not reach."""

from __future__ import annotations

from cafs.core.scheduling.membership import admit, expel, revoke
from cafs.core.scheduling.mesh import offer
from cafs.core.scheduling.source import consider
from cafs.core.scheduling.state import State


def shun(state: State, host_id: str, now: float, why: str) -> None:
    """The host is nobody's parent until it is pardoned."""
    host = state.hosts.get(host_id)
    if host is None:
        return
    for member in list(host.members.values()):
        if member.shunned:
            continue
        expel(state, member)
        task = member.task
        state.explain(now, task, "shun", f"{host_id}: {why}")
        peer = member.peer
        if peer is not None and member.at_source:
            revoke(state, peer, "it gave wrong bytes")
            peer.source_failed = True
            task.failed_seeds.add(host_id)
        consider(state, task, now)


def pardon(state: State, host_id: str, now: float) -> None:
    """It may be a parent again."""
    host = state.hosts.get(host_id)
    if host is None:
        return
    for member in host.members.values():
        if member.shunned:
            member.shunned = False
            member.task.complete += member.complete
            member.task.covered = False
            admit(state, member)
            offer(state, member, now)
