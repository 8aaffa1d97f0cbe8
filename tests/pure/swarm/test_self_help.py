"""When a download helps itself at the source."""

from cafs.core.swarm.self_help import LONG_STALL_S, STALL_S, SelfHelp


def due(helps: SelfHelp, now: float, *, alone: bool = False, can_be_helped: bool = True) -> bool:
    return helps.is_due(now, alone=alone, can_be_helped=can_be_helped)


def test_nobody_is_waited_for_longer_than_patience_lasts() -> None:
    helps = SelfHelp(100.0)
    assert not due(helps, 100.0 + LONG_STALL_S)
    assert due(helps, 100.1 + LONG_STALL_S)
    assert not due(helps, 100.0 + STALL_S, alone=True)
    assert due(helps, 100.1 + STALL_S, alone=True)
    assert due(helps, 100.0, alone=True, can_be_helped=False)
    assert not due(helps, 100.0, can_be_helped=False)


def test_only_what_parents_give_makes_it_wait_again() -> None:
    helps = SelfHelp(0.0)
    now = LONG_STALL_S + 1
    helps.note(now, 0, excused=False)  # pieces of the source are not told of
    assert due(helps, now)
    helps.note(now, 1, excused=False)
    assert not due(helps, now)
    helps.note(now + 1, 1, excused=False)
    assert due(helps, now + LONG_STALL_S + 1)


def test_who_was_sent_to_the_source_waits_for_nobody_until_that_is_taken_back() -> None:
    helps = SelfHelp(0.0)
    for now in range(200):
        helps.note(float(now), 0, excused=True)
    assert not due(helps, 199.0 + LONG_STALL_S)
    assert due(helps, 200.0 + LONG_STALL_S)
