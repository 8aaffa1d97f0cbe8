"""When an origin is left alone."""

from cafs.core.swarm.origin_health import FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_TOLD_S, TRIES, Breaker


def failed(times: int) -> Breaker:
    breaker = Breaker()
    for before in reversed(range(times)):
        breaker.note_failure(float(-before))
    return breaker


def test_some_failures_in_a_row_open_it() -> None:
    assert failed(TRIES - 1).wait_s(0.0) == 0
    assert failed(TRIES).wait_s(0.0) == FIRST_PAUSE_S
    assert failed(TRIES + 2).wait_s(0.0) == 4 * FIRST_PAUSE_S
    assert failed(1000).wait_s(0.0) == LONGEST_PAUSE_S


def test_what_fails_together_counts_once() -> None:
    breaker = Breaker()
    for _ in range(10 * TRIES):
        breaker.note_failure(5.0)
    assert breaker.wait_s(5.0) == 0


def test_after_the_pause_one_request_tries() -> None:
    breaker = failed(TRIES)
    assert breaker.wait_s(FIRST_PAUSE_S) == 0
    assert breaker.wait_s(FIRST_PAUSE_S) > 0
    breaker.note_given_up()
    assert breaker.wait_s(FIRST_PAUSE_S) == 0
    breaker.note_answer()
    assert breaker.wait_s(FIRST_PAUSE_S) == breaker.wait_s(FIRST_PAUSE_S) == 0


def test_it_is_left_alone_as_long_as_it_says_within_reason() -> None:
    breaker = Breaker()
    breaker.note_told_to_wait(0.0, 3.0)
    assert breaker.wait_s(1.0) == 2.0
    assert breaker.wait_s(3.0) == 0
    breaker.note_told_to_wait(3.0, 1e9)
    assert breaker.wait_s(3.0) == LONGEST_TOLD_S
    breaker.note_told_to_wait(3.0, -5.0)
    assert breaker.wait_s(3.0 + LONGEST_TOLD_S) == 0
