"""Who fed whom: counted, fading, bounded, and told with a task's hosts."""

from __future__ import annotations

import math

import pytest

from cafs.core.scheduling.feeds import Feeds
from cafs.core.scheduling.limits import Limits
from cafs.proto import p2p_pb2
from cafs.scheduler.swarm import show_swarm
from tests.support.scheduling import MIB, Cluster, host_id, task_id


def test_a_steady_rate_is_told_as_it_is_and_fades_when_nothing_comes() -> None:
    feeds = Feeds(10)
    for tenth in range(600):
        feeds.note("t", "a", "b", 2, tenth / 10)
    (fed,) = feeds.of("t", 59.9)
    assert (fed.parent, fed.child, fed.pieces) == ("a", "b", 1200)
    assert fed.pieces_per_s == pytest.approx(20, rel=0.02)
    (later,) = feeds.of("t", 64.9)
    assert later.pieces_per_s == pytest.approx(fed.pieces_per_s / math.e)


def test_the_longest_quiet_pair_is_forgotten_first() -> None:
    feeds = Feeds(2)
    feeds.note("t", "a", "b", 1, 1)
    feeds.note("t", "a", "c", 1, 2)
    feeds.note("t", "a", "b", 1, 3)
    feeds.note("other", "", "b", 1, 4)
    assert [(fed.child, fed.pieces) for fed in feeds.of("t", 4)] == [("b", 2)]
    assert [fed.parent for fed in feeds.of("other", 4)] == [""]


def test_what_hosts_report_is_what_the_swarm_shows() -> None:
    cluster = Cluster(Limits(fed_pairs=100))
    for number in (1, 2, 3):
        cluster.hello(number)
    cluster.register(1)
    cluster.register(2)
    cluster.meta(1, 4)
    cluster.got(1, range(4))
    cluster.got(2, range(3), parent=1)
    task = task_id(1)
    shown = show_swarm(cluster.core.state, p2p_pb2.SwarmRequest(task_id=task), cluster.now)
    assert shown is not None
    assert {host.host_id: host.pieces for host in shown.hosts} == {host_id(1): 4, host_id(2): 3}
    feeds = [(feed.parent_host_id, feed.child_host_id, feed.pieces) for feed in shown.feeds]
    assert feeds == [("", host_id(1), 4), (host_id(1), host_id(2), 3)]
    assert shown.feeds[0].bytes_per_s == pytest.approx(4 * MIB / 5)
    one = show_swarm(cluster.core.state, p2p_pb2.SwarmRequest(task_id=task, limit=1), cluster.now)
    assert one is not None
    assert [host.host_id for host in one.hosts] == [host_id(1)]
    assert [feed.parent_host_id for feed in one.feeds] == [""]
    assert show_swarm(cluster.core.state, p2p_pb2.SwarmRequest(task_id=task_id(2)), cluster.now) is None
