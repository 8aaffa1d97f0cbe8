"""Anything may happen to a scheduler in any order; what must hold then, holds.

Invariants look at every step. What they cannot see is looked at when an example ends (``teardown``): were all
to go well from there on, every download would come to an end; when all hosts have gone, nothing is left.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cafs.core.scheduling.coverage import provided
from cafs.core.scheduling.events import (
    DeleteTask,
    FailReason,
    Held,
    HostAlive,
    HostLeft,
    HostLost,
    Meta,
    Outcome,
    PeerFinished,
    PeerLeft,
    PeerRegister,
    Piece,
    PieceFailed,
    PiecesFinished,
    TaskMeta,
    TasksDropped,
    TaskSpec,
)
from cafs.core.scheduling.limits import Limits
from cafs.core.scheduling.states import HostState, PeerState, TaskState
from tests.support.scheduling import MIB, Cluster, digest_of, host_id, task_id
from tests.support.well_meaning import all_goes_well, unfinished

HOSTS, TASKS, PIECES = 14, 3, 6
SEEDS = {0, 1}
LIMITS = Limits(
    owners_per_task=3,
    parents_per_peer=4,
    sample=6,
    children_per_member=5,
    small_swarm=6,
    flush_per_tick=4,
    hosts=12,
    tasks=2,
    peers_per_host=2,
    source_peers=2,
    source_failures=3,
    shun_corrupt_s=40,
    sole_accusations=2,
    empty_task_s=30,
    task_idle_s=90,
    quarantine_s=20,
)
MOST_ROUNDS = 300
"""Longer than all patience that a scheduler has, one after the other."""
LONGEST_MEMORY_S = 120
hosts = st.integers(0, HOSTS - 1)
tasks = st.integers(1, TASKS)
numbers = st.lists(st.integers(0, PIECES + 1), max_size=PIECES, unique=True)


def _peer(task: int, host: int) -> str:
    return f"{task:016x}{host:016x}"


class SchedulerMachine(RuleBasedStateMachine):
    """Hosts come, download, lie and go."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(LIMITS)
        self.state = self.cluster.core.state
        self.notarised: dict[tuple[str, int, int], bytes] = {}

    @initialize()
    def all_come(self) -> None:
        for host in range(HOSTS):
            self.cluster.hello(host, seed=host in SEEDS, idc="abc"[host % 3])

    @rule(
        host=hosts,
        held=st.lists(st.tuples(tasks, st.integers(0, 2**PIECES - 1)), max_size=2),
        move=st.booleans(),
    )
    def hello(self, host: int, held: list[tuple[int, int]], move: bool) -> None:
        kept = tuple(self._held(task, have) for task, have in held)
        address = f"10.9.9.9:{host}" if move else ""
        self.cluster.hello(host, address, seed=host in SEEDS, held=kept, upload_limit=host % 5)

    def _held(self, task: int, have: int) -> Held:
        digests = b"".join(digest_of(task_id(task), n) for n in range(PIECES) if have >> n & 1)
        meta = Meta(content_bytes=PIECES * MIB, piece_bytes=MIB)
        return Held(spec=TaskSpec(task_id=task_id(task)), meta=meta, have=have, digests=digests)

    @rule(host=hosts, uploads=st.integers(0, 9), draining=st.booleans())
    def alive(self, host: int, uploads: int, draining: bool) -> None:
        self.cluster(HostAlive(host_id(host), uploads, draining=draining))

    @rule(host=hosts, task=tasks, priority=st.integers(0, 7), seedable=st.booleans(), kind=st.integers(0, 5))
    def register(self, host: int, task: int, priority: int, seedable: bool, kind: int) -> None:
        spec = TaskSpec(task_id=task_id(task), url="https://o/", priority=priority, seedable=seedable)
        self.cluster(PeerRegister(host_id(host), _peer(task, host), spec, kind != 4, kind == 5))
        known = self.state.hosts.get(host_id(host))
        if known is not None and known.state is not HostState.SILENT:
            answers = [d for d in self.cluster.last if host_id(host) in d.to]
            assert answers, "a registration is always answered"
            if priority == 0:
                assert any(getattr(d, "why", "") == "blocked" for d in answers)

    @rule(host=hosts, task=tasks, pieces=st.sampled_from([PIECES, PIECES, PIECES, 0, -1, PIECES + 1]))
    def meta(self, host: int, task: int, pieces: int) -> None:
        size = pieces * MIB if pieces >= 0 else -1
        self.cluster(TaskMeta(host_id(host), task_id(task), Meta(content_bytes=size, piece_bytes=MIB)))

    @rule(host=hosts, task=tasks, numbers=numbers, parent=st.none() | hosts, lie=st.integers(0, 9))
    def pieces(self, host: int, task: int, numbers: list[int], parent: int | None, lie: int) -> None:
        who = "" if parent is None else host_id(parent)
        got = tuple(
            Piece(n, digest_of(task_id(task), n + (77 if lie == 0 else 0)), who, 10 * (n + 1))
            for n in numbers
        )
        self.cluster(PiecesFinished(host_id(host), _peer(task, host), got))

    @rule(host=hosts, task=tasks, parent=hosts, reason=st.sampled_from(FailReason))
    def fail(self, host: int, task: int, parent: int, reason: FailReason) -> None:
        self.cluster(PieceFailed(host_id(host), _peer(task, host), 1, host_id(parent), reason))
        peer = self.state.peers.get(_peer(task, host))
        if reason is FailReason.CORRUPT and peer is not None:
            told = self.cluster.parents(host, task)
            assert not (
                self.state.court.shunned(host_id(parent))
                and host_id(parent) in told
                and len(peer.member.task.members) <= LIMITS.small_swarm
            )

    @rule(
        host=hosts, task=tasks, outcome=st.sampled_from(Outcome), status=st.sampled_from([0, 401, 404, 503])
    )
    def finish(self, host: int, task: int, outcome: Outcome, status: int) -> None:
        self.cluster(PeerFinished(host_id(host), _peer(task, host), outcome, "said so", status))

    @rule(host=hosts, task=tasks)
    def cancel(self, host: int, task: int) -> None:
        self.cluster(PeerLeft(host_id(host), _peer(task, host)))

    @rule(host=hosts, task=tasks)
    def drop(self, host: int, task: int) -> None:
        self.cluster(TasksDropped(host_id(host), (task_id(task),)))

    @rule(host=hosts)
    def lose(self, host: int) -> None:
        self.cluster(HostLost(host_id(host)))

    @rule(host=hosts)
    def leave(self, host: int) -> None:
        self.cluster(HostLeft(host_id(host)))
        assert host_id(host) not in self.state.hosts
        for task in self.state.tasks.values():
            assert host_id(host) not in task.members

    @rule(task=tasks)
    def delete(self, task: int) -> None:
        self.cluster(DeleteTask(task_id(task)))
        found = self.state.tasks.get(task_id(task))
        assert found is None or found.state is TaskState.QUARANTINED

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 25.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.cluster.pass_time(seconds, step=max(seconds / 4, 0.1))

    @precondition(lambda self: self.state.hosts)
    @rule()
    def all_alive(self) -> None:
        for known in list(self.state.hosts):
            self.cluster(HostAlive(known))

    def teardown(self) -> None:
        """See the module."""
        all_goes_well(self.cluster, PIECES, MOST_ROUNDS)
        assert not unfinished(self.cluster), "a download had no way forward"
        for host in list(self.state.hosts):
            self.cluster(HostLeft(host))
        self.cluster.pass_time(LONGEST_MEMORY_S, step=5)
        state = self.state
        kept = [state.hosts, state.seeds, state.tasks, state.peers, state.waiting, state.seeding, state.away]
        kept += [state.quarantined, state.dirty, state.dirty_large, state.news, state.news_large]
        assert not any(kept), "something is left of those who went"
        assert not state.court.sentences
        assert all(state.court.believed(host_id(host), 0) for host in range(HOSTS))

    @invariant()
    def nobody_is_its_own_parent(self) -> None:
        for task in self.state.tasks.values():
            for member in task.members.values():
                assert member not in member.parents
                assert all(parent.task is task and member in parent.children for parent in member.parents)
                assert all(member in child.parents for child in member.children)
                assert all(task.members.get(parent.host.id) is parent for parent in member.parents)
        for host, known in self.cluster.told.items():
            assert all(host not in members for members in known.members.values())

    @invariant()
    def limits_hold(self) -> None:
        assert len(self.state.hosts) <= LIMITS.hosts
        assert len(self.state.tasks) <= LIMITS.tasks
        for host in self.state.hosts.values():
            assert len(host.peers) <= LIMITS.peers_per_host
            assert host.children == sum(len(member.children) for member in host.members.values())
        for task in self.state.tasks.values():
            assert len(task.owners) <= LIMITS.owners_per_task
            assert len(task.at_source) <= LIMITS.source_peers + 1
            peers_there = sum(peer.member.host.id not in self.state.seeds for peer in task.at_source)
            assert peers_there <= LIMITS.source_peers
            assert len(task.decided) <= LIMITS.explained_per_task
            for member in task.members.values():
                most = LIMITS.parents_per_peer + len(SEEDS) + LIMITS.owners_per_task
                assert len(member.parents) <= most
                if not member.owner and member not in task.seeds:
                    assert len(member.children) <= LIMITS.children_per_member + LIMITS.owners_per_task

    @invariant()
    def owners_know_each_other(self) -> None:
        for task in self.state.tasks.values():
            for owner in task.owners:
                assert owner.owner
                assert not owner.shunned
                if owner.listens:
                    assert all(other in owner.parents for other in task.owners if other is not owner)

    @invariant()
    def every_unfinished_peer_has_a_way_forward(self) -> None:
        for task in self.state.tasks.values():
            if task.active:
                assert self.state.is_live(task)
                assert provided(task)
            for peer in task.active:
                assert peer.unfinished
                assert peer in self.state.waiting
                assert self.state.peers[peer.id] is peer
                assert peer.member.peer is peer

    @invariant()
    def counts_are_right(self) -> None:
        for task in self.state.tasks.values():
            counting = [member for member in task.members.values() if not member.shunned]
            assert task.complete == sum(member.complete for member in counting)
            if task.covered:
                union = 0
                for member in counting:
                    union |= member.have
                assert task.complete or union & task.notary.everything == task.notary.everything
            states = {
                TaskState.FETCHING: bool(task.at_source),
                TaskState.SEEDING: bool(task.seeding) and not task.at_source,
                TaskState.QUARANTINED: not task.members,
            }
            assert states.get(task.state, not task.at_source and not task.seeding), task.state
            assert all(peer.state is PeerState.AT_SOURCE for peer in task.at_source)

    @invariant()
    def whoever_listens_knows_its_parents(self) -> None:
        """And nobody else: none that is gone, or that it was told not to ask."""
        untold = {*self.state.dirty, *self.state.dirty_large}
        for peer in self.state.peers.values():
            member = peer.member
            told = self.cluster.told[member.host.id].members[member.task.id]
            if member.listens and member not in untold:
                assert told.keys() == {parent.host.id for parent in member.parents}
            if peer.state is PeerState.AT_SOURCE:
                assert peer.id in self.cluster.told[member.host.id].at_source

    @invariant()
    def shunned_hosts_are_nobodys_parents(self) -> None:
        for task in self.state.tasks.values():
            for member in task.members.values():
                assert member.shunned == self.state.court.shunned(member.host.id)
                assert not (member.shunned and member.children)
                assert not (member.shunned and member.owner)

    @invariant()
    def digests_never_change(self) -> None:
        for task in self.state.tasks.values():
            for number in range(PIECES + 2):
                if (digest := task.notary.digest_of(number)) is not None:
                    key = (task.id, id(task), number)
                    assert self.notarised.setdefault(key, digest) == digest
        self.kept = list(self.state.tasks.values())  # so that no id is given twice

    @invariant()
    def forgotten_is_forgotten(self) -> None:
        live = set(self.state.tasks.values())
        for group in (self.state.seeding, self.state.quarantined, self.state.news, self.state.news_large):
            assert set(group) <= live
        for dirty in (self.state.dirty, self.state.dirty_large):
            assert all(member.task.members.get(member.host.id) is member for member in dirty)
        assert all(peer.state is PeerState.AT_SOURCE for peer in self.state.away)
        assert all(self.state.peers.get(peer.id) is peer for peer in self.state.away)
        for peer in self.state.peers.values():
            assert peer.member.host.id in self.state.hosts
            assert peer.member.task in live
        for host in self.state.hosts.values():
            assert all(self.state.tasks.get(task) is member.task for task, member in host.members.items())
        assert set(self.state.seeds) <= set(self.state.hosts)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
