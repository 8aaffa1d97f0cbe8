"""What downloads say: they begin, get pieces or do not, and end."""

from __future__ import annotations

from dataclasses import replace

from cafs.core.scheduling.collect import quarantine
from cafs.core.scheduling.decisions import PieceDigests, TaskConflict, TellMeta
from cafs.core.scheduling.events import (
    FailReason,
    Outcome,
    PeerFinished,
    PeerLeft,
    PeerRegister,
    PieceFailed,
    PiecesFinished,
    TaskMeta,
    TasksDropped,
    TaskSpec,
)
from cafs.core.scheduling.health import note_failure
from cafs.core.scheduling.hosts import depart
from cafs.core.scheduling.membership import end_peer, enter, revoke, set_have
from cafs.core.scheduling.mesh import connect, flush, make_owners, unlink
from cafs.core.scheduling.records import Host, Member, Peer, Task
from cafs.core.scheduling.shunning import pardon, shun
from cafs.core.scheduling.source import consider, refuse, send, source_failed
from cafs.core.scheduling.state import State
from cafs.core.scheduling.states import HostState, PeerState, PeerStep, TaskState
from cafs.core.swarm.priorities import policy_of

_USUAL_PIECE_BYTES = 1 << 20
_ORIGIN_FAILURES = 3
"""Pieces in a row that the source did not give: somebody else shall try."""


def register(state: State, event: PeerRegister, now: float) -> None:
    """A download begins: it is told at once whom to ask, or why not."""
    host = state.hosts.get(event.host_id)
    if host is None or host.state is HostState.SILENT:
        return
    if reason := _refusal(state, host, event):
        retry_s = 0.0 if reason == "blocked" else state.limits.retry_s
        refuse(state, host.id, event.peer_id, reason, retry_after_s=retry_s)
        return
    task = state.task_for(event.spec, now)
    if task is None:
        refuse(state, host.id, event.peer_id, "overloaded", retry_after_s=state.limits.retry_s)
        return
    if task.state is TaskState.QUARANTINED:
        left = max(0.0, task.quarantined_until - now)
        refuse(state, host.id, event.peer_id, "quarantined", task=task, retry_after_s=left + 0.001)
        return
    _merge_spec(task, event.spec)
    member = enter(state, host, task)
    if member.peer is not None:
        end_peer(state, member.peer, PeerStep.LEAVE, now, stays=True)
    peer = _begin(state, member, event, now)
    make_owners(state, task, member)
    connect(state, member, now, "registered")
    is_seed = task.seeding == host.id or (member in task.seeds and _needs_seed(state, task, host))
    if is_seed and peer.unfinished:
        send(state, peer, now, "it is the seed")
    consider(state, task, now)
    if member.peer is peer:
        flush(state, member, now)
        _tell_known(state, task, host.id)


def _refusal(state: State, host: Host, event: PeerRegister) -> str:
    if policy_of(event.spec.priority).blocked:
        return "blocked"
    known = state.peers.get(event.peer_id)
    if known is not None and (known.member.host is not host or known.member.task.id != event.spec.task_id):
        return "bad_request"
    return "overloaded" if len(host.peers) >= state.limits.peers_per_host else ""


def _merge_spec(task: Task, spec: TaskSpec) -> None:
    """The first word counts, but a whole url is better than a cut one, and the most urgent wish decides."""
    known = task.spec
    if (spec.seedable and not known.seedable) or not (known.url or known.digest):
        known = replace(spec, priority=max(known.priority if task.active else 0, spec.priority))
    elif not task.active or spec.priority > known.priority:
        known = replace(known, priority=spec.priority)
    task.spec = known


def _begin(state: State, member: Member, event: PeerRegister, now: float) -> Peer:
    first = PeerState.EXCHANGING if event.chunks_only else PeerState.RUNNING
    peer = Peer(event.peer_id, member, first, event.whole, progress_at=now, checked_at=now)
    member.peer = peer
    member.version = 0
    state.peers[peer.id] = peer
    member.host.peers.add(peer.id)
    if peer.unfinished:
        member.task.active[peer] = None
        state.waiting[peer] = None
    return peer


def _needs_seed(state: State, task: Task, host: Host) -> bool:
    return (
        task.spec.seedable
        and not task.at_source
        and not task.complete
        and host.id not in task.failed_seeds
        and policy_of(task.spec.priority).seeds
        and not state.court.shunned(host.id)
    )


def _tell_known(state: State, task: Task, host_id: str) -> None:
    if task.notary.meta is not None:
        state.decide(TellMeta((host_id,), task.id, task.notary.meta))
    for first, digests in task.notary.all_runs():
        state.decide(PieceDigests((host_id,), task.id, first, digests))


def meta(state: State, event: TaskMeta, now: float) -> None:
    """The source's word on the content, by somebody who was sent there."""
    task = state.tasks.get(event.task_id)
    member = task.members.get(event.host_id) if task is not None else None
    if task is None or member is None or member.peer is None:
        return
    known = task.notary.meta
    if known is None and not member.peer.was_at_source:
        state.counts["unasked"] += 1
        return
    if not task.notary.learn(event.meta):
        state.explain(now, task, "conflict", f"{event.host_id} says otherwise", peer_id=member.peer.id)
        state.decide(TaskConflict((event.host_id,), task.id, known or event.meta))
        return
    if task.notary.meta is not known and task.notary.meta is not None:
        for other in task.members.values():
            set_have(state, other, other.have)
        to = tuple(peer.member.host.id for peer in task.active)
        state.decide(TellMeta(to, task.id, task.notary.meta))


def _own_peer(state: State, host_id: str, peer_id: str, *, tell: bool = False) -> Peer | None:
    """The download, if it is that host's; else, with ``tell``, the host hears that it must register it."""
    peer = state.peers.get(peer_id)
    if peer is not None and peer.member.host.hello.host_id == host_id:
        return peer
    if tell and host_id in state.hosts:
        refuse(state, host_id, peer_id, "unknown_peer", retry_after_s=0.001)
    return None


def pieces(state: State, event: PiecesFinished, now: float) -> None:
    """Pieces came: who gave them is judged by it, and those of the source make the notary's digests."""
    peer = _own_peer(state, event.host_id, event.peer_id, tell=True)
    if peer is None:
        return
    member = peer.member
    have, notary = member.have, member.task.notary
    of_parent, cost_ms, count = "", 0, 0
    for number, digest, parent, cost in event.pieces:
        if not parent:
            if not notary.holds(number) or not _from_source(state, peer, number, digest, now):
                continue
        elif not notary.proves(number, digest):
            state.counts["bad_pieces"] += notary.known >> number & 1
            continue
        elif parent == of_parent:
            cost_ms, count = cost_ms + cost, count + 1
        else:
            if of_parent:
                _note_costs(state, member, of_parent, cost_ms, count, now)
            of_parent, cost_ms, count = parent, cost, 1
        have |= 1 << number
    if of_parent:
        _note_costs(state, member, of_parent, cost_ms, count, now)
    if have == member.have:
        return
    peer.progress_at = now
    peer.stalls = 0
    if have == notary.everything:
        set_have(state, member, have)
    else:
        member.have = have


def _note_costs(  # noqa: PLR0917  called for each report
    state: State, member: Member, parent_id: str, cost_ms: int, count: int, now: float
) -> None:
    """Several pieces came from a parent."""
    task, child = member.task, member.host
    task.swarm_pieces += count
    parent = state.hosts.get(parent_id)
    if parent is None or parent is child:
        return
    state.feeds.note(task.id, parent_id, child.id, count, now)
    piece_bytes = task.notary.meta.piece_bytes if task.notary.meta is not None else _USUAL_PIECE_BYTES
    mean_ms = cost_ms / count
    if state.costs.note(parent.health, child.health, child.hello.host_id, mean_ms, piece_bytes):
        parent.health.slow_until = now + state.limits.slow_s


def _from_source(state: State, peer: Peer, number: int, digest: bytes, now: float) -> bool:
    """Whether a piece that a peer got from the source is the content's."""
    task = peer.member.task
    notary = task.notary
    if not peer.was_at_source:
        state.counts["unasked"] += 1
        return notary.digest_of(number) == digest
    if not notary.record(number, digest):
        state.counts["bad_pieces"] += 1
        if notary.meta is not None and notary.digest_of(number) is not None:
            state.explain(now, task, "conflict", f"another digest of piece {number}", peer_id=peer.id)
            state.decide(TaskConflict((peer.member.host.id,), task.id, notary.meta))
        return False
    peer.origin_failures = 0
    task.source_failures = 0
    task.source_pieces += 1
    state.feeds.note(task.id, "", peer.member.host.id, 1, now)
    if notary.has_news:
        state.mark_news(task)
    return True


def failed(state: State, event: PieceFailed, now: float) -> None:
    """A piece did not come."""
    peer = _own_peer(state, event.host_id, event.peer_id)
    if peer is None:
        return
    if event.reason is FailReason.ORIGIN:
        _origin_failed(state, peer, now)
        return
    parent = state.hosts.get(event.parent)
    if parent is None or parent is peer.member.host:
        return
    if _was_sent_to(peer, parent):
        note_failure(parent.health, event.reason)
    state.counts[f"failed_{event.reason.value}"] += 1
    if event.reason is FailReason.CORRUPT:
        _accuse(state, peer, parent, now)
    elif event.reason in (FailReason.GONE, FailReason.SLOW):
        _avoid(state, peer.member, parent, now)


def _origin_failed(state: State, peer: Peer, now: float) -> None:
    peer.origin_failures += 1
    if peer.state is not PeerState.AT_SOURCE or peer.origin_failures < _ORIGIN_FAILURES:
        return
    peer.source_failed = True
    revoke(state, peer, "the source fails it")
    task = peer.member.task
    source_failed(state, task, peer, now, "the source did not give pieces")
    consider(state, task, now)


def _was_sent_to(peer: Peer, parent: Host) -> bool:
    """Whether it may speak ill of a host: of others it can know nothing."""
    member = parent.members.get(peer.member.task.id)
    return member is not None and member in peer.member.parents


def _accuse(state: State, peer: Peer, parent: Host, now: float) -> None:
    """Wrong bytes: the parent is shunned at once, unless the accuser is not believed any more."""
    accuser = peer.member.host.id
    if not _was_sent_to(peer, parent):
        return
    court, limits = state.court, state.limits
    if not court.believed(accuser, len(peer.member.parents)):
        _avoid(state, peer.member, parent, now)
        return
    why = f"wrong bytes of {peer.member.task.id}"
    if court.accuse(accuser, parent.id, now + limits.shun_corrupt_s, why):
        shun(state, parent.id, now, why)
    if not court.believed(accuser, len(peer.member.parents)):
        state.explain(now, peer.member.task, "shun", f"{accuser} accused too many, and nobody else did")
        for host_id in court.disbelieve(accuser, now + limits.shun_corrupt_s):
            pardon(state, host_id, now)


def _avoid(state: State, member: Member, parent: Host, now: float) -> None:
    """These two do not reach each other: other parents for this one."""
    member.avoided[parent.id] = now + state.limits.avoid_s
    other = parent.members.get(member.task.id)
    if other is not None and other not in member.task.seeds and not (other.owner and member.owner):
        unlink(state, member, other)


def finished(state: State, event: PeerFinished, now: float) -> None:
    """A download ended."""
    peer = _own_peer(state, event.host_id, event.peer_id)
    if peer is None:
        return
    member = peer.member
    task, was_at_source = member.task, member.at_source
    state.counts[f"peers_{event.outcome.name.lower()}"] += 1
    state.use(task, now)
    if event.outcome is Outcome.SUCCEEDED:
        if peer.whole and task.notary.pieces is not None and not member.exchanging:
            # Pieces without a digest do not count: nobody else could tell whether they are right.
            set_have(state, member, member.have | task.notary.known)
        end_peer(state, peer, PeerStep.SUCCEED, now)
    else:
        end_peer(state, peer, PeerStep.FAIL, now)
        if event.outcome is Outcome.BAD_CONTENT:
            bad_content(state, task, peer, now)
        elif was_at_source:
            source_failed(state, task, peer, now, event.reason, status=event.status)
    consider(state, task, now)


def bad_content(state: State, task: Task, peer: Peer, now: float) -> None:
    """All pieces are as the notary says, and the whole is not what it should be."""
    task.bad_content.add(peer.member.host.id)
    enough = len(task.bad_content) >= state.limits.quarantine_votes
    if enough or peer.was_at_source or not task.active:
        quarantine(state, task, now)


def left(state: State, event: PeerLeft, now: float) -> None:
    """A download was cancelled."""
    peer = state.peers.get(event.peer_id)
    if peer is None or peer.member.host.id != event.host_id:
        return
    task = peer.member.task
    end_peer(state, peer, PeerStep.LEAVE, now)
    consider(state, task, now)


def dropped(state: State, event: TasksDropped, now: float) -> None:
    """A host deleted what it held."""
    host = state.hosts.get(event.host_id)
    for task_id in event.task_ids if host is not None else ():
        member = host.members.get(task_id) if host is not None else None
        if member is not None:
            depart(state, member, now)
