"""What a download knows of other members: whom it shuns, and for how long."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.swarm.ids import HostId
from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.messages import FailReason, Member, MembersChanged
from cafs.core.swarm.swarm_view import LONGEST_SHUN_S, MAX_MEMBERS, NEWCOMER_S, SHUN_S, SwarmView

ME, OTHER, THIRD = (HostId(letter * 32) for letter in "0ab")


def member(host: HostId, *have: int, complete: bool = False) -> Member:
    return Member(host=host, address="192.0.2.1:1", have=Bitmap.of(have), complete=complete)


def seen(*members: Member) -> SwarmView:
    made = SwarmView()
    made.apply(MembersChanged(members=members, whole=True), ME, 0.0)
    return made


def usable(swarm: SwarmView, now: float) -> set[HostId]:
    return {parent.host for parent in swarm.parents(now, 10) if parent.usable}


def test_members_come_change_and_go() -> None:
    swarm = seen(member(ME, 1), member(OTHER, 1))
    assert set(swarm.members) == {OTHER}
    swarm.apply(MembersChanged(members=(member(OTHER, 2), member(THIRD)), self_at_source=True), ME, 1.0)
    assert list(swarm.members[OTHER].have) == [1, 2]
    assert swarm.self_at_source
    swarm.apply(MembersChanged(members=(), gone=(OTHER,)), ME, 2.0)
    assert set(swarm.members) == {THIRD}
    swarm.apply(MembersChanged(members=(member(OTHER),), whole=True), ME, 3.0)
    assert set(swarm.members) == {OTHER}


def test_who_was_at_the_source_before_is_heard_out_but_not_for_long_and_no_newcomer() -> None:
    at_source = replace(member(OTHER), at_source=True)
    for ends in (
        lambda swarm: swarm.heard(OTHER, (), 0.1),
        lambda swarm: swarm.note_failure(OTHER, None, FailReason.CORRUPT, 0.1),
        lambda swarm: swarm.apply(MembersChanged(members=(member(OTHER),)), ME, 0.1),
        lambda swarm: swarm.apply(MembersChanged(members=(), gone=(OTHER,)), ME, 0.1),
    ):
        swarm = seen(at_source)
        assert swarm.awaits(0.2)
        assert not swarm.awaits(NEWCOMER_S)
        ends(swarm)
        assert not swarm.awaits(0.2)
    swarm = seen()
    swarm.apply(MembersChanged(members=(at_source,)), ME, 0.0)
    assert not swarm.awaits(0.0)


def test_what_a_member_reads_from_the_source_is_as_it_last_said() -> None:
    swarm = seen(member(OTHER))
    swarm.heard(OTHER, (), 0.0, Bitmap.of([3]))
    swarm.heard(OTHER, (1,), 0.0)
    assert [list(parent.coming) for parent in swarm.parents(0.0, 9)] == [[3]]
    swarm.heard(OTHER, (3,), 0.0, Bitmap())
    assert [list(parent.coming) for parent in swarm.parents(0.0, 9)] == [[]]


def test_a_scheduler_cannot_flood_us() -> None:
    swarm = seen(*(member(HostId(f"{n:032x}")) for n in range(1, 1000)))
    assert len(swarm.members) == MAX_MEMBERS


def test_who_sent_wrong_bytes_is_not_asked_again() -> None:
    swarm = seen(member(OTHER, 1), member(THIRD, 1))
    swarm.note_failure(OTHER, 1, FailReason.CORRUPT, 0.0)
    swarm.note_failure(OTHER, 1, FailReason.SLOW, 1.0)
    swarm.apply(MembersChanged(members=(member(OTHER, 2),)), ME, 2.0)
    assert usable(swarm, 1e9) == {THIRD}


def test_who_is_busy_is_left_alone_as_long_as_he_says_within_reason() -> None:
    swarm = seen(member(OTHER, 1))
    swarm.note_failure(OTHER, 1, FailReason.REFUSED, 0.0, 2.0)
    assert not usable(swarm, 1.9)
    assert usable(swarm, 2.0)
    swarm.note_failure(OTHER, 1, FailReason.REFUSED, 2.0, 1e9)
    assert usable(swarm, 2.0 + SHUN_S)


@pytest.mark.parametrize("reason", [FailReason.SLOW, FailReason.GONE])
def test_who_fails_again_is_left_alone_for_longer(reason: FailReason) -> None:
    swarm = seen(member(OTHER, 1))
    now, pauses = 0.0, []
    for _ in range(8):
        swarm.note_failure(OTHER, 1, reason, now)
        pauses.append(swarm.members[OTHER].away_until - now)
        now = swarm.members[OTHER].away_until
    assert pauses[:3] == [SHUN_S, 2 * SHUN_S, 4 * SHUN_S]
    assert pauses[-1] == LONGEST_SHUN_S
    swarm.note_success(OTHER, now)
    swarm.note_failure(OTHER, 1, reason, now)
    assert swarm.members[OTHER].away_until - now == SHUN_S


def test_requests_that_a_cut_link_fails_together_are_one_failure() -> None:
    swarm = seen(member(OTHER, 1, 2, 3, 4))
    for number in (1, 2, 3, 4):
        swarm.note_failure(OTHER, number, FailReason.SLOW, number / 100)
    assert swarm.members[OTHER].away_until <= 0.01 + SHUN_S
    swarm.note_failure(OTHER, 1, FailReason.CORRUPT, 0.1)
    assert not usable(swarm, 1e9), "wrong bytes are another matter"


def test_what_somebody_lied_about_is_not_asked_of_him() -> None:
    swarm = seen(member(OTHER, 1, 2, complete=True))
    assert len(swarm.parents(0.0, 10)[0].have) == 10
    swarm.note_failure(OTHER, 1, FailReason.GONE, 0.0)
    assert 1 not in swarm.parents(SHUN_S, 10)[0].have


@given(st.lists(st.sampled_from(["ask", "answer"]), max_size=20))
def test_requests_under_way_are_never_less_than_none(steps: list[str]) -> None:
    swarm = seen(member(OTHER, 1))
    for step in steps:
        (swarm.asked if step == "ask" else swarm.answered)(OTHER)
        assert swarm.members[OTHER].in_flight >= 0


def test_who_can_help() -> None:
    swarm = seen(member(OTHER, 1))
    assert swarm.can_help(Bitmap.of([1, 2]), 0.0)
    assert not swarm.can_help(Bitmap.of([2]), 0.0)
    swarm.note_failure(OTHER, None, FailReason.SLOW, 0.0)
    assert not swarm.can_help(Bitmap.of([1]), 1.0)


def test_who_has_more_than_is_here() -> None:
    swarm = seen(member(OTHER, 1))
    assert swarm.holds_more(Bitmap.of([2]), 0.0)
    assert not swarm.holds_more(Bitmap.of([1, 2]), 0.0)
    assert seen(member(OTHER, complete=True)).holds_more(Bitmap.of([1]), 0.0)
    assert not seen(replace(member(OTHER), at_source=True)).holds_more(Bitmap(), 0.0), "it has nothing yet"
    swarm.note_failure(OTHER, None, FailReason.SLOW, 0.0)
    assert not swarm.holds_more(Bitmap(), 1.0)
