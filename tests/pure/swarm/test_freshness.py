"""For how long an origin's word is good."""

import pytest

from cafs.core.swarm.freshness import MOST_GUESSED_S, dated, is_fresh, origin_said_at, said_since
from cafs.core.swarm.layout import Layout
from cafs.core.swarm.task import TaskMeta

DATE = "Sun, 29 Nov 2026 12:00:00 GMT"
AT = 1_795_953_600.0
"""The same moment."""
HOUR_AGO = "Sun, 29 Nov 2026 11:00:00 GMT"


def fresh_for(**headers: str) -> float:
    """Seconds after ``AT`` for which it is believed: by halving."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    meta = TaskMeta(Layout(1, 1 << 20), (("date", DATE), *named))
    low, high = 0, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_fresh(meta, AT + middle - 0.5) else (low, middle)
    return low


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"cache_control": "public, max-age=60"}, 60),
        ({"cache_control": "max-age=60, s-maxage=90"}, 90),
        ({"cache_control": "max-age=60, no-cache"}, 0),
        ({"cache_control": "no-store", "last_modified": HOUR_AGO}, 0),
        ({"cache_control": "max-age=x", "expires": "Sun, 29 Nov 2026 12:05:00 GMT"}, 300),
        ({"expires": "0"}, 0),
        ({"expires": HOUR_AGO}, 0),
        ({"last_modified": HOUR_AGO}, 360),
        ({"last_modified": "Sun, 29 Nov 1970 11:00:00 GMT"}, MOST_GUESSED_S),
        ({"last_modified": "yesterday"}, 0),
        ({}, 0),
    ],
)
def test_as_a_shared_cache_decides(headers: dict[str, str], seconds: float) -> None:
    assert fresh_for(**headers) == seconds


def test_it_counts_from_when_the_origin_was_asked() -> None:
    meta = TaskMeta(Layout(1, 1 << 20), (("date", DATE), ("cache-control", "max-age=60")), AT + 100)
    assert is_fresh(meta, AT + 159)
    assert not is_fresh(meta, AT + 99)  # said in the future: a clock went back
    assert not is_fresh(meta, AT + 161)
    assert not is_fresh(TaskMeta(Layout(1, 1 << 20), (("cache-control", "max-age=60"),)), AT)


@pytest.mark.parametrize(
    ("age", "seconds"), [("50", 50), ("0", 0), ("-5", 0), ("x", 0), ("9" * 30, 0), ("", 0)]
)
def test_what_a_cache_on_the_way_held_is_as_old_as_it_says(age: str, seconds: int) -> None:
    assert origin_said_at((("Date", DATE), ("Age", age)), AT) == AT - seconds


def test_what_has_no_age_is_new() -> None:
    assert origin_said_at((("Date", DATE),), AT) == AT


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ((("Cache-Control", "no-cache"),), 0),
        ((("cache-control", "max-age=20"), ("Cache-Control", "no-transform")), 20),
        ((("Cache-Control", "max-age=3600"),), 60),
        ((("Cache-Control", "max-age=0"),), 0),
        ((("Pragma", "no-cache"),), 0),
        ((("Pragma", "no-cache"), ("Cache-Control", "max-stale")), 60),
        ((("Accept", "no-cache"),), 60),
    ],
)
def test_a_client_may_want_it_fresher(sent: tuple[tuple[str, str], ...], seconds: int) -> None:
    meta = TaskMeta(Layout(1, 1 << 20), (("date", DATE), ("cache-control", "max-age=60")))
    assert is_fresh(meta, AT + seconds - 0.5, sent) is (seconds > 0)
    assert not is_fresh(meta, AT + seconds, sent)


def test_what_was_said_since_a_wish_began_is_its_answer() -> None:
    meta = TaskMeta(Layout(1, 1 << 20), dated((), AT + 0.7))
    assert meta.header("date") == DATE
    assert said_since(meta, AT + 0.9, AT + 0.9)
    assert not said_since(meta, AT + 1.0, AT + 1.0)
    assert not said_since(meta, AT - 3600, AT - 3500), "a clock that is wrong"
    assert not said_since(TaskMeta(Layout(1, 1 << 20)), AT, AT)
    assert dated((("Date", DATE),), AT + 99) == (("Date", DATE),)
