"""Who is told of whom. A bounded number of candidate parents for each member, at random and then by score.

A swarm's *owners*, at most 32, all know each other, so that the rendezvous that says who fetches a piece
first comes out the same for them. All others know a random few, owners or not: a random graph of such a
degree is in one piece and a few steps wide, however large the swarm is. Seeds are known to everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from cafs.core.scheduling.decisions import Candidate, Members, PieceDigests
from cafs.core.scheduling.events import HostType
from cafs.core.scheduling.explain import Seen
from cafs.core.scheduling.records import Member, Task
from cafs.core.scheduling.score import Scores, affinity, scores, share_new, speed
from cafs.core.scheduling.state import State
from cafs.core.scheduling.states import HostState, PeerState

# Asked of dozens of hosts for each newcomer: a global is found quicker than an enum's member.
_SEED, _AT_SOURCE, _DRAINING = HostType.SEED, PeerState.AT_SOURCE, HostState.DRAINING


def link(state: State, child: Member, parent: Member, score: float | None = None) -> None:
    """``child`` shall know ``parent``."""
    _tie(child, parent, score)
    state.mark(child)


def _tie(child: Member, parent: Member, score: float | None) -> None:
    """As ``link``, for a child that is marked."""
    if parent not in child.parents:
        child.parents[parent] = parent.children[child] = None
        parent.host.children += 1
    if child.gone:
        child.gone.pop(parent.host.id, None)
    child.changed[parent] = score


def unlink(state: State, child: Member, parent: Member) -> None:
    """``child`` shall not ask ``parent`` any more."""
    if parent not in child.parents:
        return
    del child.parents[parent]
    del parent.children[child]
    parent.host.children -= 1
    child.changed.pop(parent, None)
    child.gone[parent.host.id] = None
    state.mark(child)


def orphan_all(state: State, parent: Member) -> None:
    """Nobody shall ask it any more."""
    for child in list(parent.children):
        unlink(state, child, parent)


def forget_parents(state: State, child: Member) -> None:
    """It downloads no more, and hears of nobody."""
    for parent in child.parents:
        del parent.children[child]
        parent.host.children -= 1
    child.parents.clear()
    state.unmark(child)


def tell_children(state: State, parent: Member) -> None:
    """What they were told of it has changed."""
    for child in parent.children:
        child.changed[parent] = None
        state.mark(child)


def connect(state: State, member: Member, now: float, why: str) -> None:
    """Give a member its candidate parents, and give it to some of them."""
    task = member.task
    for seed in task.seeds:
        if seed is not member and state.may_serve(seed):
            link(state, member, seed)
    if member.exchanging or member.owner:
        for owner in task.owners:
            if owner is not member:
                link(state, member, owner)
    fill(state, member, now, why)


def _most_parents(state: State, member: Member) -> int:
    """Seeds not counted. Owners know each other, and besides must hear of others: else they were cut off."""
    limits = state.limits
    more = member.owner or member.exchanging
    return limits.parents_per_peer + (limits.owners_per_task // 2 if more else 0)


def _introduce(state: State, child: Member, parent: Member, now: float) -> None:
    """Let ``child`` know a newcomer, instead of another one when it knows enough.

    A newcomer is introduced to as many as it knows, drawn at random: so the parents of all stay random
    samples of the whole swarm (reservoir sampling), where the first ones would know each other only.
    """
    if not child.listens or unfit(state, child, parent, now):
        return
    if len(child.parents) >= _most_parents(state, child) + len(child.task.seeds):
        others = [known for known in child.parents if not known.owner and known not in child.task.seeds]
        if not others:
            return
        unlink(state, child, others[int(state.rng.random() * len(others))])
    link(state, child, parent)


def fill(state: State, member: Member, now: float, why: str) -> None:
    """As many candidate parents as it may have."""
    room = _most_parents(state, member) - len(member.parents) + len(member.task.seeds)
    if room <= 0 or len(member.task.crowd) <= 1:
        return
    chosen = choose(state, member, room, now, why)
    if chosen:
        state.mark(member)
    for score, parent in chosen:
        _tie(member, parent, score)
        if parent.peer is not None:
            _introduce(state, parent, member, now)


def offer(state: State, member: Member, now: float) -> None:
    """Tell some others of it."""
    for child in member.task.crowd.draw(state.limits.parents_per_peer, state.rng):
        _introduce(state, child, member, now)


def choose(state: State, child: Member, count: int, now: float, why: str) -> list[tuple[float, Member]]:
    """The best ``count`` of some that are drawn at random; slow ones only when there are no others."""
    scored: list[tuple[float, int, Member]] = []
    seen, known, score_of = Seen(), set[str](), scorer(child)
    for parent in child.task.crowd.draw(max(state.limits.sample, count), state.rng):
        reason = unfit(state, child, parent, now)
        if not reason:
            found = score_of(parent)
            slow = parent.host.health.slow_until > now
            scored.append((found[0] - slow, -len(scored), parent))
            seen.add_scored(parent.host.hello.host_id, found, "slow" if slow else "")
        elif reason == "known":
            found = score_of(parent)
            seen.add_scored(parent.host.hello.host_id, found, "owner" if parent.owner else "known before")
            known.add(parent.host.hello.host_id)
            if parent in child.changed:
                child.changed[parent] = found[0]
        elif reason != "same host":
            seen.add_filtered(parent.host.hello.host_id, reason)
    scored.sort(reverse=True)
    best = [(score, parent) for score, _, parent in scored[:count]]
    if scored or known:
        seen.close(known.union(parent.host.hello.host_id for _, parent in best))
        peer_id = child.peer.id if child.peer is not None else ""
        state.explain(now, child.task, "members", why, peer_id=peer_id, seen=seen)
    return best


def unfit(  # noqa: PLR0911  one answer for each reason
    state: State, child: Member, parent: Member, now: float
) -> str:
    """Why the one cannot be the other's parent; empty: it can."""
    host = parent.host
    if host is child.host:
        return "same host"
    if parent in child.parents:
        return "known"
    if parent.shunned:
        return "shunned"
    if host.state is _DRAINING:
        return "draining"
    if host.upload_limit <= 0:
        return "serves nobody"
    if len(parent.children) >= state.limits.children_per_member:
        return "has all children it may have"
    if child.avoided and child.avoided.get(host.id, 0.0) > now:
        return "was out of reach"
    return ""


def scorer(child: Member) -> Callable[[Member], Scores]:
    """Says of parents how good each is for this child, and why."""
    here, have, everything = child.host.hello, child.have, child.task.notary.everything
    idc, location = here.idc, here.location

    def score_of(parent: Member) -> Scores:
        host = parent.host
        there, health = host.hello, host.health
        limit, uploads = host.upload_limit or 1, host.uploads
        if parent.complete:
            pieces = 1.0
        elif parent.have:
            pieces = share_new(parent.have, have, everything)
        else:
            pieces = 0.0
        return scores(
            pieces,
            1.0 - uploads / limit if uploads < limit else 0.0,
            1.0 / (1.0 + host.children / (4.0 * limit)),
            speed(health.relative),
            1.0 - health.failure,
            1.0 if idc and idc == there.idc else 0.0,
            affinity(location, there.location) if location else 0.0,
            0.0 if there.type is _SEED else 1.0,
        )

    return score_of


def candidate(member: Member, score: float) -> Candidate:
    """What a child is told."""
    host = member.host
    hello, peer, complete = host.hello, member.peer, member.complete
    have = 0 if complete else member.have
    at_source = peer is not None and peer.state is _AT_SOURCE
    return Candidate(hello.host_id, hello.address, hello.type, score, complete, have, member.owner, at_source)


def flush(state: State, member: Member, now: float) -> None:
    """Tell a member what has changed."""
    state.dirty.pop(member, None)
    state.dirty_large.pop(member, None)
    if not member.listens:
        state.unmark(member)
        return
    if member.gone:
        _top_up(state, member, now)
        state.dirty.pop(member, None)
        state.dirty_large.pop(member, None)
    whole = member.version == 0
    if not (whole or member.changed or member.gone):
        return
    member.version += 1
    score_of = scorer(member)
    told = tuple(
        [
            candidate(parent, score_of(parent)[0] if score is None else score)
            for parent, score in member.changed.items()
        ]
    )
    gone = () if whole else tuple(member.gone)
    to, task = (member.host.id,), member.task
    state.decide(
        Members(
            to, task.id, member.version, whole, told, gone, member.owner, member.at_source, len(task.members)
        )
    )
    member.changed.clear()
    member.gone.clear()


def _top_up(state: State, member: Member, now: float) -> None:
    """Some of its parents went: others take their place."""
    task = member.task
    wanted = min(state.limits.parents_per_peer // 2, len(task.crowd) - 1) + len(task.seeds)
    missing_owner = member.exchanging and any(
        owner not in member.parents for owner in task.owners if owner is not member
    )
    if len(member.parents) < wanted or missing_owner:
        connect(state, member, now, "parents went")


def make_owners(state: State, task: Task, first: Member | None = None) -> None:
    """Let the task have as many owners as it may; ``first`` before others."""
    room = state.limits.owners_per_task - len(task.owners)
    if room <= 0:
        return
    if first is not None and _can_own(state, first):
        _make_owner(state, first)
        return
    for peer in list(islice(task.active, 4 * room)):
        if room > 0 and _can_own(state, peer.member):
            _make_owner(state, peer.member)
            room -= 1


def _can_own(state: State, member: Member) -> bool:
    peer = member.peer
    wants_all = peer is not None and (peer.whole if peer.unfinished else member.exchanging)
    return (
        wants_all
        and not member.owner
        and not state.is_seed(member.host)
        and state.may_serve(member)
        and member.host.state is HostState.ALIVE
    )


def _make_owner(state: State, member: Member) -> None:
    task = member.task
    member.owner = True
    for other in task.owners:
        if other.listens:
            link(state, other, member)
        link(state, member, other)
    task.owners[member] = None
    tell_children(state, member)
    state.mark(member)


def drop_owner(state: State, member: Member) -> None:
    """Somebody else shall be an owner."""
    if not member.owner:
        return
    member.owner = False
    del member.task.owners[member]
    tell_children(state, member)
    make_owners(state, member.task)


def tell_digests(state: State, task: Task, now: float) -> None:
    """Hand what the notary learned to all who download."""
    state.forget_news(task)
    task.told_at = now
    runs = list(task.notary.take_news())
    to = tuple(peer.member.host.id for peer in task.active)
    if to:
        for first, digests in runs:
            state.decide(PieceDigests(to, task.id, first, digests))
