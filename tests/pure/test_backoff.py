"""Retry decisions: any history of failures ends in a source that may still help, or in giving up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cafs.core.backoff import (
    LONGEST_RETRY_AFTER_S,
    LONGEST_WAIT_S,
    Answer,
    Ask,
    final_error,
    plan_next,
    rounds,
)
from cafs.errors import AuthError, CafsError, DeadlineError, IntegrityError, NotFoundError, RemoteError


def answer(source: int, error: CafsError) -> Answer:
    return Answer(source, f"source {source}", error, 0.0)


errors = st.sampled_from(
    [
        RemoteError("503"),
        DeadlineError("late"),
        IntegrityError("wrong"),
        NotFoundError("404"),
        AuthError("401"),
    ]
)


@given(
    st.lists(st.builds(answer, st.integers(0, 3), errors), max_size=30),
    st.floats(0, 1, exclude_max=True),
)
def test_the_next_source_is_one_that_did_not_refuse(answers: list[Answer], jitter: float) -> None:
    ask = plan_next(answers, 4, jitter=jitter)
    refused = {a.source for a in answers if isinstance(a.error, NotFoundError | AuthError)}
    if ask is None:
        wrong = [a.source for a in answers if isinstance(a.error, IntegrityError)]
        assert all(s in refused or wrong.count(s) > 1 for s in range(4))
    else:
        assert ask.source not in refused
        assert 0 <= ask.wait_s <= max(LONGEST_WAIT_S * 1.5, LONGEST_RETRY_AFTER_S)


def test_each_source_is_asked_at_once_before_any_wait() -> None:
    failed = RemoteError("503")
    assert plan_next([], 2, jitter=0.5) == Ask(0, 0.0)
    assert plan_next([answer(0, failed)], 2, jitter=0.5) == Ask(1, 0.0)
    again = plan_next([answer(0, failed), answer(1, failed)], 2, jitter=0.5)
    assert again == Ask(0, 0.1)


def test_waits_grow_and_stop_growing() -> None:
    failed = RemoteError("503")
    waits = []
    for n in range(1, 12):
        ask = plan_next([answer(0, failed)] * n, 1, jitter=0.5)
        assert ask is not None
        waits.append(ask.wait_s)
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT_S


def test_retry_after_is_obeyed_within_reason() -> None:
    busy = RemoteError("429")
    busy.retry_after_s = 5.0
    ask = plan_next([answer(0, busy)], 1, jitter=0.0)
    assert ask == Ask(0, 5.0)
    busy.retry_after_s = 1e9
    assert plan_next([answer(0, busy)], 1, jitter=0.0) == Ask(0, LONGEST_RETRY_AFTER_S)


def test_the_final_error_names_every_source_and_keeps_the_kind() -> None:
    missing = [answer(0, NotFoundError("404")), answer(1, NotFoundError("gone"))]
    error = final_error(missing, "chunk x")
    assert type(error) is NotFoundError
    assert str(error) == "chunk x: source 0: 404; source 1: gone"
    mixed = final_error([*missing, answer(1, IntegrityError("wrong"))], "chunk x")
    assert type(mixed) is RemoteError


def test_rounds_count_the_most_asked_source() -> None:
    failed = RemoteError("503")
    assert rounds([]) == 0
    assert rounds([answer(0, failed), answer(1, failed), answer(0, failed)]) == 2
