"""Who goes to the source: one seed by rendezvous, else a few peers; and what follows when that fails."""

from __future__ import annotations

from itertools import islice

from blake3 import blake3

from cafs.core.scheduling.coverage import provided, settle
from cafs.core.scheduling.decisions import GoToSource, Refused, SeedTask
from cafs.core.scheduling.explain import Seen
from cafs.core.scheduling.membership import end_peer
from cafs.core.scheduling.mesh import tell_children
from cafs.core.scheduling.records import Host, Peer, Task
from cafs.core.scheduling.score import WEIGHTS
from cafs.core.scheduling.state import State
from cafs.core.scheduling.states import HostState, PeerState, PeerStep
from cafs.core.swarm.priorities import policy_of

_OWN_CREDENTIALS = frozenset({401, 403, 407})
"""Answers that say nothing about what another client would be told."""


_SEEDS_TOLD = 16
_LOOKED_AT = 1024
"""Downloads among which one is sought that can go to the source."""


def rendezvous(task_id: str, host_id: str) -> bytes:
    """The highest of these is first."""
    return blake3(f"{task_id}/{host_id}".encode()).digest(8)


def consider(state: State, task: Task, now: float) -> None:
    """See to it that what unfinished downloads lack comes from somewhere, or that they hear why not."""
    if not task.active or not state.is_live(task):
        return
    if provided(task):
        _widen(state, task, now)
        return
    policy = policy_of(task.spec.priority)
    if policy.seeds and task.spec.seedable and (seed := _next_seed(state, task)) is not None:
        trigger(state, task, seed, now)
        if not policy.at_once:
            return
    if task.source_failed_until > now:
        refuse_all(state, task, "source_failed", now)
    elif not policy.peers:
        refuse_all(state, task, "no_source", now)
    elif not send_some(state, task, now, 1 if task.seeding else None) and not task.seeding:
        refuse_all(state, task, _why_nobody_goes(task), now)


def _why_nobody_goes(task: Task) -> str:
    """Of a source that nobody has complained of, those that stalled there shall find out for themselves."""
    if task.source_said:
        return "source_failed"
    return "stalled" if any(peer.source_failed for peer in task.active) else "no_source"


def _widen(state: State, task: Task, now: float) -> None:
    """Peers at the source share the pieces: as long as no seed does it all, a few of them may be there."""
    if not 0 < len(task.at_source) < state.limits.source_peers or task.source_failed_until > now:
        return
    seeds = sum(state.is_seed(peer.member.host) for peer in task.at_source)
    if not seeds:
        send_some(state, task, now)
    elif seeds == len(task.at_source) and policy_of(task.spec.priority).at_once:
        send_some(state, task, now, 1)  # it became urgent after a seed had begun


def _next_seed(state: State, task: Task) -> Host | None:
    fit = [
        host
        for host in state.seeds.values()
        if host.state is HostState.ALIVE
        and host.id not in task.failed_seeds
        and not state.court.shunned(host.id)
    ]
    return max(fit, key=lambda host: rendezvous(task.id, host.id), default=None)


def trigger(state: State, task: Task, seed: Host, now: float) -> None:
    """Tell a seed to fetch; or let it go on, when it downloads this anyway."""
    seen = _seen_seeds(state, task, seed)
    state.explain(now, task, "seed", f"{seed.id} is first by rendezvous", seen=seen)
    member = seed.members.get(task.id)
    if member is not None and member.peer is not None and member.peer.state is PeerState.RUNNING:
        send(state, member.peer, now, "a seed that downloads it itself")
        return
    task.seeding = seed.id
    patience = state.limits.seed_patience_s * policy_of(task.spec.priority).patience
    task.seeding_until = now + patience
    state.seeding[task] = None
    settle(task)
    state.decide(SeedTask((seed.id,), task.spec))


def _seen_seeds(state: State, task: Task, chosen: Host) -> Seen:
    seen = Seen()
    for host in islice(state.seeds.values(), _SEEDS_TOLD):
        if host.id in task.failed_seeds:
            seen.add_filtered(host.id, "failed for this task")
        elif state.court.shunned(host.id):
            seen.add_filtered(host.id, "shunned")
        elif host.state is not HostState.ALIVE:
            seen.add_filtered(host.id, host.state.name.lower())
        else:
            rank = int.from_bytes(rendezvous(task.id, host.id), "big") / 2**64
            seen.add_scored(host.id, (rank, *(0.0 for _ in WEIGHTS)))
    seen.close({chosen.id})
    return seen


def send_some(state: State, task: Task, now: float, most: int | None = None) -> bool:
    """Let as many peers go as may. False: none can."""
    room = state.limits.source_peers - len(task.at_source) if most is None else most
    sent = False
    for owner in list(task.owners):
        if room > 0 and owner.peer is not None and may_go(owner.peer):
            send(state, owner.peer, now, "no seed does it; it is an owner")
            room, sent = room - 1, True
    for peer in list(islice(task.active, _LOOKED_AT)) if not sent else ():
        if room > 0 and may_go(peer):
            send(state, peer, now, "no seed does it")
            room, sent = room - 1, True
    return sent


def may_go(peer: Peer) -> bool:
    """Whether it can be sent: it was not in vain before, and would hear of it."""
    is_there = peer.member.host.state is not HostState.SILENT
    return peer.state is PeerState.RUNNING and is_there and not peer.source_failed


def send(state: State, peer: Peer, now: float, why: str) -> None:
    """This peer goes to the source."""
    member = peer.member
    task = member.task
    peer.step(PeerStep.SEND)
    peer.was_at_source = True
    peer.progress_at = peer.checked_at = now
    state.waiting.pop(peer, None)
    state.waiting[peer] = None
    task.at_source[peer] = None
    if task.seeding == member.host.id:
        end_seeding(state, task)
    settle(task)
    # Told last: who hears it before it knows who else is there reads what others read.
    state.decide_last(GoToSource((member.host.id,), peer.id, why))
    state.explain(now, task, "source", why, peer_id=peer.id)
    tell_children(state, member)
    state.mark(member)


def end_seeding(state: State, task: Task) -> None:
    """Nobody is waited for any more."""
    task.seeding = ""
    state.seeding.pop(task, None)


def source_failed(
    state: State, task: Task, peer: Peer | None, now: float, said: str, *, status: int = 0
) -> None:
    """A seed, or a peer that was sent, did not get it."""
    host_id = task.seeding if peer is None else peer.member.host.id
    if host_id in state.seeds or peer is None:
        task.failed_seeds.add(host_id)
        if task.seeding == host_id:
            end_seeding(state, task)
    elif status not in _OWN_CREDENTIALS:
        task.source_failures += 1
        if task.source_failures >= state.limits.source_failures:
            task.source_failed_until = now + state.limits.source_failed_s
            task.source_failures = 0
    if status not in _OWN_CREDENTIALS:
        task.source_said, task.source_status = said, status
    state.explain(now, task, "source", f"failed: {said}", peer_id=peer.id if peer else "")
    settle(task)


def stalled_there(state: State, task: Task, peer: Peer, now: float, why: str) -> None:
    """Nothing was heard for long of what it gets there: why, nobody knows, so the source is not blamed."""
    host_id = peer.member.host.id
    if host_id in state.seeds:
        task.failed_seeds.add(host_id)
    state.explain(now, task, "source", f"stalled: {why}", peer_id=peer.id)
    settle(task)


def refuse_all(state: State, task: Task, why: str, now: float) -> None:
    """None of the unfinished downloads gets anywhere: they are told."""
    for peer in list(task.active):
        refuse(state, peer.member.host.id, peer.id, why, task=task, retry_after_s=state.limits.retry_s)
        end_peer(state, peer, PeerStep.REFUSE, now)
    state.explain(now, task, "refused", why)


def refuse(
    state: State,
    host_id: str,
    peer_id: str,
    why: str,
    *,
    task: Task | None = None,
    retry_after_s: float = 0.0,
) -> None:
    """Say no to one download."""
    of_source = task is not None and why == "source_failed"
    detail = task.source_said if task is not None and of_source else ""
    status = task.source_status if task is not None and of_source else 0
    state.counts[f"refused_{why}"] += 1
    state.decide(Refused((host_id,), peer_id, why, retry_after_s, detail, status))
