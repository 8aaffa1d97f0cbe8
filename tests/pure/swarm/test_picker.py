"""Which piece is asked of whom: order, ownership, patience, and bounds."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.ownership import Turns, in_order
from cafs.core.swarm.picker import BRING_AHEAD, COMING_PATIENCE_S, Ask, Parent, Plan, View, pick

TASK = TaskId("1" * 64)
ME = HostId("0" * 32)
HOSTS = [HostId(f"{n:032x}") for n in range(1, 9)]


def plan(view: View) -> Plan:
    return pick(view, Turns(), Turns())


def view(pieces: int, parents: list[Parent], **more: Any) -> View:
    return replace(View(TASK, ME, Bitmap.full(pieces), parents, now=100.0), **more)


bitmaps = st.integers(0, (1 << 40) - 1).map(Bitmap)
parents = st.lists(
    st.builds(
        Parent,
        st.sampled_from(HOSTS),
        bitmaps,
        score=st.floats(0, 1),
        in_flight=st.integers(0, 5),
        usable=st.booleans(),
        owner=st.booleans(),
        at_source=st.booleans(),
        heard_at=st.floats(80, 100),
    ),
    max_size=8,
    unique_by=lambda parent: parent.host,
)
views = st.builds(
    View,
    st.just(TASK),
    st.just(ME),
    bitmaps,
    parents,
    st.just(100.0),
    urgent=st.lists(st.integers(0, 45), max_size=5),
    order=st.lists(st.integers(0, 45), max_size=5),
    self_owner=st.booleans(),
    self_at_source=st.booleans(),
    waiting=st.dictionaries(st.integers(0, 40), st.floats(0, 100)),
    room=st.integers(0, 20),
    source_room=st.integers(0, 4),
)


@given(views)
def test_no_plan_breaks_a_bound(given_view: View) -> None:
    made = plan(given_view)
    numbers = [ask.number for ask in made.asks]
    by_host = {parent.host: parent for parent in given_view.parents}
    assert len(numbers) == len(set(numbers)) <= given_view.room
    assert all(number in given_view.missing for number in (*numbers, *made.waiting))
    assert not set(numbers) & set(made.waiting)
    assert sum(ask.host is None for ask in made.asks) <= given_view.source_room
    assert given_view.self_at_source or all(ask.host is not None for ask in made.asks)
    for host in {ask.host for ask in made.asks if ask.host is not None}:
        parent = by_host[host]
        asked = [ask for ask in made.asks if ask.host == host]
        assert parent.usable
        assert parent.in_flight + len(asked) <= parent.most
        # Somebody is asked for what he is not known to have only if he can get it from the source.
        assert parent.at_source or all(ask.number in parent.have for ask in asked)


@given(views)
def test_a_piece_that_several_have_is_asked_for_while_one_of_them_has_room(given_view: View) -> None:
    roomy = replace(given_view, room=1000)
    made = plan(roomy)
    asked = {ask.number for ask in made.asks}
    free = {
        p.host
        for p in roomy.parents
        if p.usable and p.in_flight + sum(ask.host == p.host for ask in made.asks) < p.most
    }
    for number in roomy.missing:
        holders = [p for p in roomy.parents if p.usable and number in p.have]
        several = len({"source" if p.at_source else p.host for p in holders}) > 1
        if several and any(p.host in free for p in holders):
            assert number in asked


def test_who_alone_has_a_piece_gives_it_to_its_owner() -> None:
    seed = Parent(HOSTS[7], Bitmap.full(40), owner=False, at_source=True, most=99, heard_at=100.0)
    other = Parent(HOSTS[0], Bitmap(), heard_at=100.0)
    made = plan(view(40, [seed, other], room=99))
    mine = [n for n in range(40) if in_order(TASK, n, [ME, HOSTS[0]])[0] == ME]
    assert sorted(ask.number for ask in made.asks) == mine
    assert sorted((*mine, *made.waiting)) == list(range(40))
    # He who downloads nothing just now is not waited for.
    idle = plan(view(40, [seed, replace(other, heard_at=90.0)], room=99))
    assert not idle.waiting
    # A reader does not wait for long.
    theirs = made.waiting[0]
    urgent = view(40, [seed, other], room=99, urgent=(theirs,), waiting={theirs: 99.5})
    assert Ask(theirs, seed.host) in plan(urgent).asks


@given(views)
def test_every_piece_has_somebody_whose_turn_it_is_in_the_end(given_view: View) -> None:
    # All others silent for ever, room enough, and a way to the source: nothing is waited for.
    patient = replace(
        given_view,
        parents=[replace(p, heard_at=0.0, in_flight=0, most=1000) for p in given_view.parents],
        waiting=dict.fromkeys(range(46), 0.0),
        self_at_source=True,
        room=1000,
        source_room=1000,
    )
    assert not plan(patient).waiting


@given(st.integers(2, 8), st.integers(1, 60))
def test_at_once_each_unheld_piece_is_asked_for_by_one_host_only(count: int, pieces: int) -> None:
    seed = Parent(HostId("f" * 32), Bitmap(), owner=False, at_source=True, most=1000, heard_at=100.0)
    hosts = HOSTS[:count]
    asked: list[int] = []
    for me in hosts:
        others = [Parent(host, Bitmap(), heard_at=100.0) for host in hosts if host != me]
        made = plan(View(TASK, me, Bitmap.full(pieces), [*others, seed], 100.0, room=1000))
        assert all(ask.host == seed.host for ask in made.asks)
        asked += [ask.number for ask in made.asks]
    assert sorted(asked) == list(range(pieces))


def test_of_what_nobody_has_only_the_next_pieces_are_asked_of_several_who_read_at_the_source() -> None:
    two = [Parent(host, Bitmap(), most=99, owner=False, at_source=True, heard_at=100.0) for host in HOSTS[:2]]
    made = plan(view(200, two, room=99))
    assert [ask.number for ask in made.asks] == list(range(BRING_AHEAD))
    waits = plan(view(200, two, room=99, urgent=(150,)))
    assert [ask.number for ask in waits.asks] == [150, *range(BRING_AHEAD)]
    alone = plan(view(200, two[:1], room=99))
    assert [ask.number for ask in alone.asks] == list(range(99))


def test_several_at_the_source_share_the_pieces() -> None:
    seeds = [
        Parent(host, Bitmap(), owner=False, at_source=True, most=99, heard_at=100.0) for host in HOSTS[:3]
    ]
    made = plan(view(30, seeds, room=99))
    assert {ask.host for ask in made.asks} == set(HOSTS[:3])
    for ask in made.asks:
        assert ask.host == in_order(TASK, ask.number, HOSTS[:3])[0]


def test_what_another_reads_from_the_source_is_left_to_it_for_a_while() -> None:
    both = {"self_at_source": True, "source_room": 99, "room": 99}
    other = Parent(HOSTS[0], Bitmap(), at_source=True, heard_at=100.0, coming=Bitmap.full(20))
    made = plan(view(30, [other], **both))
    assert {ask.number for ask in made.asks} <= set(range(20, 30))
    assert set(range(20)) <= set(made.waiting)
    long_ago = dict.fromkeys(range(30), 100.0 - COMING_PATIENCE_S)
    late = plan(view(30, [other], waiting=long_ago, **both))
    assert {ask.number for ask in late.asks if ask.host is None} & set(range(20))


def test_who_is_at_the_source_is_asked_to_bring_what_he_reads_or_what_is_his_turn() -> None:
    first, other = sorted(HOSTS[:2], key=lambda host: in_order(TASK, 0, HOSTS[:2])[0] != host)
    idle = [Parent(host, Bitmap(), owner=False, at_source=True, heard_at=100.0) for host in (first, other)]
    assert plan(view(1, idle)).asks == (Ask(0, first),)
    reads = [idle[0], replace(idle[1], coming=Bitmap.of([0]))]
    assert plan(view(1, reads)).asks == (Ask(0, other),)
    # Another one would read it a second time: it is not asked while the first has no room, but for a reader.
    busy = [replace(idle[0], in_flight=4), idle[1]]
    assert plan(view(1, busy)).asks == ()
    assert plan(view(1, busy, urgent=(0,))).asks == (Ask(0, other),)


def test_two_peers_at_the_source_are_two_who_have_a_piece_and_two_seeds_are_one() -> None:
    number = next(n for n in range(99) if in_order(TASK, n, [ME, HOSTS[2]])[0] == HOSTS[2])
    have, late = Bitmap.of([number]), Parent(HOSTS[2], Bitmap(), heard_at=100.0)
    both = [Parent(host, have, owner=False, at_source=True) for host in HOSTS[:2]]
    wish = replace(view(0, [*both, late]), missing=have)
    assert [ask.number for ask in plan(wish).asks] == [number]
    seeds = [replace(parent, seed=True) for parent in both]
    assert plan(replace(wish, parents=[*seeds, late])) == Plan((), (number,))


def test_hosts_ask_different_ones_of_those_who_are_as_good() -> None:
    four = [Parent(host, Bitmap.full(1), owner=False) for host in HOSTS[:4]]
    asked = {ask.host for me in HOSTS[4:] for ask in plan(replace(view(1, four), me=me)).asks}
    assert len(asked) > 1


def test_readers_come_first_then_the_order_then_the_rarest() -> None:
    common, rare = Bitmap.of([0, 1, 2, 3, 5]), Bitmap.of([0, 1, 2, 3, 4])
    three = [
        Parent(HOSTS[0], common, most=99, owner=False),
        Parent(HOSTS[1], rare, most=99, owner=False),
        Parent(HOSTS[2], Bitmap.of([0, 4, 5]), most=99, owner=False),
    ]
    made = plan(view(6, three, urgent=(3, 2), order=(1,)))
    assert [ask.number for ask in made.asks[:3]] == [3, 2, 1]
    assert {ask.number for ask in made.asks[3:5]} == {4, 5}
    assert made.asks[5].number == 0


def test_the_better_parent_gets_more() -> None:
    everything = Bitmap.full(12)
    two = [Parent(HOSTS[0], everything, 0.8, most=99), Parent(HOSTS[1], everything, 0.4, most=99)]
    made = plan(view(12, two))
    assert sum(ask.host == HOSTS[0] for ask in made.asks) == 8


def test_who_gets_it_alone_gets_it_in_order() -> None:
    me, in_order = HostId("8" * 32), list(range(16))
    whole = [Parent(host, Bitmap.full(400), most=99) for host in HOSTS[:2]]
    begun = Parent(HOSTS[2], Bitmap.of([0]))
    for parents in (whole[:1], whole):
        assert [ask.number for ask in plan(view(400, parents, me=me)).asks] == in_order
        assert sorted(ask.number for ask in plan(view(400, [*parents, begun], me=me)).asks) != in_order


def test_an_owner_is_waited_for_while_he_is_heard_of() -> None:
    seed = Parent(HOSTS[7], Bitmap(), owner=False, at_source=True, heard_at=100.0)
    number = next(n for n in range(99) if in_order(TASK, n, [ME, HOSTS[0]])[0] == HOSTS[0])
    other = Parent(HOSTS[0], Bitmap(), heard_at=99.0)
    only = replace(view(0, [other, seed]), missing=Bitmap.of([number]), waiting={number: 10.0})
    assert plan(only) == Plan((), (number,))
    silent = replace(only, parents=[replace(other, heard_at=97.9), seed])
    assert plan(silent).asks == (Ask(number, seed.host),)
    # A reader waits: slow is not good enough, however much is heard of him.
    assert plan(replace(only, urgent=(number,))).asks == (Ask(number, seed.host),)


def test_a_decision_is_bounded_however_large_the_content() -> None:
    seed = Parent(HOSTS[7], Bitmap(), owner=False, at_source=True, heard_at=100.0, most=9999)
    made = plan(view(1 << 20, [seed], room=9999))
    assert len(made.asks) + len(made.waiting) <= 256


def test_while_nobody_has_room_the_waits_go_on() -> None:
    busy = Parent(HOSTS[0], Bitmap.full(40), owner=False, in_flight=4, heard_at=100.0)
    made = plan(view(40, [busy], waiting={3: 90.0, 39: 95.0, 41: 90.0}))
    assert made == Plan((), (3, 39))
