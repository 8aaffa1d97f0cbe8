"""Rates hold whatever is taken, and change at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.swarm.token_bucket import BURST_S, TokenBucket
from cafs.errors import UsageError

RATE = 10 << 20


@given(st.lists(st.tuples(st.integers(0, 4 << 20), st.floats(0, 2)), max_size=40))
def test_no_more_than_the_rate_and_one_burst_ever_passes(takes: list[tuple[int, float]]) -> None:
    bucket, now, passed = TokenBucket(RATE, 0.0), 0.0, 0
    for amount, idle_s in takes:
        now += idle_s
        now += bucket.take(amount, now)
        passed += amount
        assert passed <= RATE * (now + BURST_S) + 1
    assert TokenBucket(0, 0.0).take(1 << 60, 0.0) == 0.0


def test_takers_wait_one_after_the_other() -> None:
    bucket = TokenBucket(RATE, 0.0)
    waits = [bucket.take(RATE, 5.0) for _ in range(3)]
    assert waits == pytest.approx([1 - BURST_S, 2 - BURST_S, 3 - BURST_S])
    bucket.set_rate(2 * RATE, 5.0)
    assert bucket.take(0, 5.0) == pytest.approx((3 - BURST_S) / 2)
    bucket.set_rate(0, 5.0)
    assert bucket.take(1 << 40, 5.0) == 0.0


def test_a_clock_that_jumps_back_gives_nothing() -> None:
    bucket = TokenBucket(RATE, 1000.0)
    bucket.take(RATE, 1000.0)
    assert bucket.take(0, 1.0) == pytest.approx(1 - BURST_S)


def test_limits_are_changed_whole_or_not_at_all() -> None:
    limits = PeerLimits()
    assert limits.changed({"upload_bytes_per_s": 5}).upload_bytes_per_s == 5
    for wrong in (
        {"nonsense": 1},
        {"concurrent_uploads": -1},
        {"concurrent_uploads": True},
        {"concurrent_uploads": "1"},
        {"concurrent_pieces": 0},
        {"task_quota_bytes": 1},
    ):
        with pytest.raises(UsageError):
            limits.changed({"upload_bytes_per_s": 5, **wrong})
    assert limits.changed({"concurrent_uploads": 0}).difference(limits) == {"concurrent_uploads": 0}
