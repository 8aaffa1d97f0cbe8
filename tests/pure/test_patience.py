from cafs.core.patience import FIRST_SHARE, LEAST_S, Patience


def test_a_deadline_that_passed_makes_the_next_ones_short_and_growing() -> None:
    patience = Patience(60)
    patience.note_timeout(60)
    patience.note_timeout(60.001)  # began together with the first
    first = patience.seconds
    assert first == 60 * FIRST_SHARE
    patience.note_timeout(first)
    assert patience.seconds == 2 * first
    total = 0.0
    for _ in range(10):
        total += patience.seconds
        patience.note_timeout(patience.seconds)
    assert patience.seconds <= 60


def test_five_attempts_of_the_kernel_take_less_than_two_deadlines() -> None:
    patience, waited = Patience(60), 0.0
    for _ in range(5):
        waited += patience.seconds
        patience.note_timeout(patience.seconds)
    assert waited < 120


def test_an_answer_restores_the_whole() -> None:
    patience = Patience(60)
    patience.note_timeout(60)
    patience.note_answer()
    assert patience.seconds == 60


def test_an_earlier_deadline_of_the_caller_changes_nothing() -> None:
    patience = Patience(60)
    patience.note_timeout(1)
    assert patience.seconds == 60


def test_a_short_deadline_stays_long_enough_for_an_answer() -> None:
    patience = Patience(2)
    patience.note_timeout(2)
    assert patience.seconds == LEAST_S
    patience = Patience(0.1)
    patience.note_timeout(0.1)
    assert patience.seconds == 0.1
