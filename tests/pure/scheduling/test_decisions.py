"""Single decisions: who goes to the source, who is told of whom, who is shunned, what the notary keeps."""

from __future__ import annotations

import pytest

from cafs.core.scheduling.decisions import Disconnect, GoToSource, Members, Refused, TaskConflict
from cafs.core.scheduling.events import (
    FailReason,
    Held,
    HostAlive,
    HostLeft,
    HostLost,
    HostType,
    Meta,
    Outcome,
    TaskMeta,
    TaskSpec,
    Tick,
)
from cafs.core.scheduling.limits import Limits
from cafs.core.scheduling.notary import Notary
from cafs.core.scheduling.source import rendezvous
from cafs.core.scheduling.states import HOST_TABLE, HostState, HostStep, ImpossibleStepError, take
from tests.support.scheduling import MIB, Cluster, digest_of, host_id, task_id


def swarm(hosts: int, *, seeds: int = 0, **spec: object) -> Cluster:
    cluster = Cluster()
    for number in range(1000, 1000 + seeds):
        cluster.hello(number, seed=True)
    for number in range(hosts):
        cluster.hello(number)
        cluster.register(number, **spec)
    return cluster


def test_a_few_peers_go_when_there_is_no_seed() -> None:
    cluster = swarm(20)
    going = [number for number in range(20) if cluster.goes(number)]
    assert len(going) == Limits().source_peers
    cluster.finished(going[0], Outcome.FAILED, status=503)
    assert sum(cluster.goes(number) for number in range(20)) == len(going) + 1


def test_the_seed_is_chosen_by_rendezvous_and_the_next_takes_its_place() -> None:
    cluster = swarm(3, seeds=4, seedable=True)
    order = sorted(range(1000, 1004), key=lambda n: rendezvous(task_id(1), host_id(n)), reverse=True)
    assert [n for n in order if cluster.known(n).seeds] == order[:1]
    cluster.pass_time(Limits().seed_patience_s + 1)  # it does not begin
    assert cluster.known(order[1]).seeds
    cluster.register(order[1], seedable=True)
    assert cluster.goes(order[1])
    cluster.finished(order[1], Outcome.FAILED, status=500)
    assert cluster.known(order[2]).seeds
    cluster(HostLeft(host_id(order[2])))
    cluster(HostLeft(host_id(order[3])))
    assert any(cluster.goes(number) for number in range(3))


def test_a_seed_that_was_killed_at_the_source_is_replaced_soon_unless_it_comes_back() -> None:
    """Within its patience: others would wait for it as long as for one that stalls."""
    for comes_back in (False, True):
        cluster = swarm(3, seeds=2, seedable=True)
        first, second = sorted((1000, 1001), key=lambda n: rendezvous(task_id(1), host_id(n)), reverse=True)
        cluster.register(first, seedable=True)
        assert cluster.goes(first)
        cluster(HostLost(host_id(first)))
        cluster.pass_time(Limits().seed_patience_s - 1)
        assert not cluster.known(second).seeds
        if comes_back:
            cluster.hello(first, seed=True)
            cluster.register(first, seedable=True)
        cluster.pass_time(2)
        assert bool(cluster.known(second).seeds) is not comes_back
        assert cluster.goes(first) is comes_back
        assert not cluster.core.state.away


def test_a_peer_that_is_not_there_is_not_sent_to_the_source() -> None:
    cluster = swarm(Limits().source_peers + 2)
    going = [number for number in range(Limits().source_peers + 2) if cluster.goes(number)]
    silent, there = [number for number in range(Limits().source_peers + 2) if number not in going]
    cluster(HostLost(host_id(silent)))
    cluster(HostLost(host_id(going[0])))
    cluster.pass_time(Limits().seed_patience_s + 1)
    assert (cluster.goes(silent), cluster.goes(there), cluster.goes(going[0])) == (False, True, False)


def test_a_seed_is_not_told_of_what_needs_credentials() -> None:
    cluster = swarm(2, seeds=1, seedable=False)
    assert not cluster.known(1000).seeds
    assert cluster.goes(0)


@pytest.mark.parametrize(
    ("priority", "seed", "peer", "refused"),
    [
        (0, False, False, "blocked"),
        (1, False, False, "no_source"),
        (2, False, True, ""),
        (3, True, False, ""),
        (5, True, False, ""),
        (6, True, True, ""),
    ],
)
def test_priorities(priority: int, seed: bool, peer: bool, refused: str) -> None:
    cluster = swarm(1, seeds=1, seedable=True, priority=priority)
    assert (bool(cluster.known(1000).seeds), cluster.goes(0)) == (seed, peer)
    assert [r.why for r in cluster.known(0).refused.values()] == ([refused] if refused else [])


def test_a_source_that_fails_many_is_left_alone_for_a_while() -> None:
    cluster = swarm(30)
    for number in range(30):
        if cluster.goes(number):
            cluster.finished(number, Outcome.FAILED, status=404)
    said = [r for number in range(30) for r in cluster.known(number).refused.values()]
    assert said
    assert {(r.why, r.status) for r in said} == {("source_failed", 404)}
    cluster.register(0, peer="f" * 32)
    assert any(isinstance(decision, Refused) for decision in cluster.last)
    cluster.pass_time(Limits().source_failed_s + 1)
    cluster.register(1, peer="e" * 32)
    assert "e" * 32 in cluster.known(1).at_source


def test_a_source_that_nobody_complains_of_is_not_blamed_for_a_stall() -> None:
    """Who was sent there and is not heard of finds out for itself, once all others were there, too."""
    cluster = swarm(12)
    for _ in range(12):
        cluster.pass_time(Limits().stall_s)
        for number in range(12):
            cluster(HostAlive(host_id(number)))
    said = [r for number in range(12) for r in cluster.known(number).refused.values()]
    assert [r.why for r in said] == ["stalled"] * 12
    cluster.register(12, peer="f" * 32)
    assert not cluster.known(12).refused


def test_who_is_refused_for_its_own_credentials_says_nothing_of_others() -> None:
    cluster = swarm(12)
    for _ in range(12):
        for number in range(12):
            if cluster.goes(number) and host_id(number) in _active(cluster):
                cluster.finished(number, Outcome.FAILED, status=401)
    assert not [r for number in range(12) for r in cluster.known(number).refused.values()]


def _active(cluster: Cluster) -> set[str]:
    return {peer.member.host.id for peer in cluster.core.state.peers.values()}


def test_who_is_sent_to_the_source_knows_by_then_who_is_there() -> None:
    """Else each would begin with what the others read already."""
    cluster = swarm(1)
    cluster.hello(1)
    cluster.register(1)
    told = [type(decision) for decision in cluster.last if decision.to == (host_id(1),)]
    assert told.index(Members) < told.index(GoToSource)
    assert cluster.parents(1)[host_id(0)].at_source


def test_the_first_digest_and_length_count() -> None:
    cluster = swarm(3)
    cluster.meta(0, 4)
    cluster.got(0, [0, 1])
    assert cluster.known(2).digests == {(task_id(1), n): digest_of(task_id(1), n) for n in (0, 1)}
    assert cluster.known(2).metas[task_id(1)].content_bytes == 4 * MIB
    other = Meta(content_bytes=5 * MIB, piece_bytes=MIB)
    (conflict,) = cluster(TaskMeta(host_id(1), task_id(1), other))
    assert isinstance(conflict, TaskConflict)
    assert conflict.meta.content_bytes == 4 * MIB


def test_wrong_bytes_shun_the_parent_for_everybody_also_after_it_came_back() -> None:
    cluster = swarm(6)
    assert host_id(3) in cluster.parents(2)
    cluster.failed(2, 3, FailReason.CORRUPT)
    assert not any(host_id(3) in cluster.parents(n) for n in range(6))
    cluster(HostLeft(host_id(3)))
    cluster.hello(3)
    cluster.register(3)
    assert not any(host_id(3) in cluster.parents(n) for n in range(6))
    cluster.pass_time(Limits().gone_after_s - 1)
    assert cluster.core.state.court.shunned(host_id(3))


def test_who_alone_accuses_everybody_is_believed_no_longer() -> None:
    cluster = swarm(30)
    for number in range(1, 30):
        cluster.failed(0, number, FailReason.CORRUPT)
    assert not cluster.core.state.court.sentences
    cluster.failed(1, 2, FailReason.CORRUPT)  # another one still is
    assert list(cluster.core.state.court.sentences) == [host_id(2)]


def test_a_host_may_only_accuse_whom_it_was_sent_to() -> None:
    cluster = swarm(3)
    cluster.hello(9)
    hosts = cluster.core.state.hosts
    for reason in (FailReason.CORRUPT, FailReason.GONE, FailReason.SLOW, FailReason.REFUSED):
        cluster.failed(0, 9, reason)
    assert not cluster.core.state.court.sentences
    assert hosts[host_id(9)].health.failure == 0
    cluster.failed(0, 1, FailReason.GONE)
    assert hosts[host_id(1)].health.failure > 0


def test_a_swarm_of_two_thousand_is_told_in_bounded_sets_and_is_in_one_piece() -> None:
    cluster = swarm(2000)
    for _ in range(200):
        cluster.pass_time(0.02, step=0.02)
    task = cluster.core.state.tasks[task_id(1)]
    limits = Limits()
    most = max(len(member.parents) for member in task.members.values())
    assert most <= limits.parents_per_peer + limits.owners_per_task // 2 + 1
    reached, edge = {host_id(0)}, [host_id(0)]
    while edge:
        edge = [p for h in edge for p in cluster.told[h].members[task_id(1)] if p not in reached]
        reached.update(edge)
    assert len(reached) == 2000


def test_wrong_whole_content_is_deleted_everywhere_and_may_be_had_again_later() -> None:
    cluster = swarm(4)
    cluster.meta(0, 1)
    cluster.got(0, [0])
    cluster.got(1, [0], parent=0)
    cluster.finished(0, Outcome.BAD_CONTENT)
    assert all(cluster.known(n).forgotten for n in range(2))
    cluster.register(5)
    cluster.hello(5)
    cluster.register(5)
    assert [r.why for r in cluster.known(5).refused.values()] == ["quarantined"]
    cluster.pass_time(Limits().quarantine_s + 1, step=10)
    cluster.hello(6)
    cluster.register(6)
    assert cluster.goes(6)


def test_a_silent_host_keeps_its_place_until_its_time_is_over() -> None:
    cluster = swarm(3)
    cluster(HostLost(host_id(2)))
    assert host_id(2) in cluster.parents(0)
    cluster.pass_time(Limits().gone_after_s / 2)
    for number in (0, 1):
        cluster.hello(number)
        cluster.register(number)
    cluster.pass_time(Limits().gone_after_s / 2 + 1)
    assert host_id(2) not in cluster.core.state.hosts
    assert host_id(2) not in cluster.parents(0)


def test_a_stream_outlives_no_host_that_was_taken_for_gone() -> None:
    """A link that was cut and is there again: what came on the stream would be a stranger's for ever."""
    cluster = swarm(3)
    cluster.now += Limits().gone_after_s - 1
    for number in (0, 1):
        cluster(HostAlive(host_id(number)))
    cluster.now += 2
    parted = [decision.to for decision in cluster(Tick()) if isinstance(decision, Disconnect)]
    assert parted == [(host_id(2),)]
    cluster.hello(2)
    cluster.register(2)
    assert host_id(2) in cluster.parents(0)


def test_what_hosts_hold_is_known_again_from_their_hello() -> None:
    cluster = Cluster()
    digests = b"".join(digest_of(task_id(1), n) for n in range(3))
    meta = Meta(content_bytes=3 * MIB, piece_bytes=MIB)
    held = Held(spec=TaskSpec(task_id=task_id(1)), meta=meta, have=7, digests=digests)
    cluster.hello(1, held=(held,))
    cluster.hello(2)
    cluster.register(2)
    (parent,) = cluster.parents(2).values()
    assert (parent.host_id, parent.complete, parent.type) == (host_id(1), True, HostType.NORMAL)
    assert len(cluster.known(2).digests) == 3
    assert not cluster.goes(2)


def test_notary_bulk_and_runs() -> None:
    notary = Notary(100)
    assert notary.record_all(0b1011, b"".join(bytes([n]) * 32 for n in (1, 2, 3))) == 0b1011
    assert [(first, len(digests) // 32) for first, digests in notary.all_runs()] == [(0, 2), (3, 1)]
    assert notary.record_all(0b0011, b"\1" * 32 + b"\7" * 32) == 0b0001
    assert not notary.learn(Meta(content_bytes=3 * MIB, piece_bytes=MIB))  # piece 3 is known
    assert notary.learn(Meta(content_bytes=4 * MIB, piece_bytes=MIB))
    assert notary.proves(1, b"\2" * 32)
    assert not any(notary.proves(number, b"\2" * 32) for number in (0, 2, 4))
    assert not notary.proves(2, bytes(32))


def test_a_step_that_is_not_in_the_table_cannot_be_taken() -> None:
    with pytest.raises(ImpossibleStepError, match="HELLO in GONE"):
        take(HOST_TABLE, HostState.GONE, HostStep.HELLO)
