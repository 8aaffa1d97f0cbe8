"""Rendezvous: everybody finds the same owner, and few pieces move when the swarm changes."""

from hypothesis import given
from hypothesis import strategies as st

from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.ownership import in_order, owner

TASK = TaskId("0" * 64)
hosts = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32).map(HostId), unique=True, max_size=9)


def test_the_order_is_pinned() -> None:
    # Hosts of different versions must agree on it.
    six = [HostId(letter * 32) for letter in "abcdef"]
    assert [host[0] for host in in_order(TASK, 5, six)] == ["d", "a", "e", "b", "f", "c"]


@given(hosts, st.integers(0, 1 << 20))
def test_the_order_of_asking_makes_no_difference(members: list[HostId], number: int) -> None:
    order = in_order(TASK, number, members)
    assert order == in_order(TASK, number, sorted(members))
    assert owner(TASK, number, members) == (order[0] if order else None)


@given(hosts.filter(bool), st.integers(0, 1 << 20))
def test_who_leaves_takes_only_its_own(members: list[HostId], number: int) -> None:
    order = in_order(TASK, number, members)
    for left in members:
        assert in_order(TASK, number, [h for h in members if h != left]) == [h for h in order if h != left]


def test_shares_are_even() -> None:
    eight = [HostId(f"{n:032x}") for n in range(8)]
    owned = [owner(TASK, number, eight) for number in range(4000)]
    assert all(400 < owned.count(host) < 600 for host in eight)
