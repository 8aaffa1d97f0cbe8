"""How far away a source is taken to be."""

from __future__ import annotations

import pytest

from cafs.core.distance import FARTHEST, NEAR_S, Distances


@pytest.mark.parametrize(
    ("took_s", "distance"),
    [([], 1), ([0.001], 1), ([NEAR_S], 1), ([0.025], 2), ([0.9, 0.045, 0.3], 4), ([1000.0], FARTHEST)],
)
def test_the_quickest_answer_counts(took_s: list[float], distance: float) -> None:
    distances = Distances()
    for seconds in took_s:
        distances.note("far", seconds)
    assert distances.of("far") == pytest.approx(distance)
    assert distances.of("another") == 1


def test_a_source_that_has_become_slower_is_farther_away() -> None:
    distances = Distances()
    distances.note("far", 0.001)
    for _ in range(20):
        distances.note("far", 0.035)
    assert distances.of("far") == pytest.approx(3)
