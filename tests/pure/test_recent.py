"""A dictionary that forgets what was used longest ago."""

from __future__ import annotations

from cafs.core.recent import Recent


def test_what_was_used_longest_ago_goes() -> None:
    recent: Recent[str, int] = Recent(3)
    for number, key in enumerate("abc"):
        recent.put(key, number)
    assert recent.get("a") == 0
    recent.put("d", 3)
    assert [recent.get(key) for key in "abcd"] == [0, None, 2, 3]
    recent.put("a", 7)
    recent.put("e", 4)
    assert [recent.get(key) for key in "abcde"] == [7, None, None, 3, 4]
    assert sorted(recent.values()) == [3, 4, 7]


def test_what_is_held_stays_until_it_is_not() -> None:
    held = {0, 1, 2, 3}
    recent: Recent[int, int] = Recent(2, held.__contains__)
    for number in range(4):
        recent.put(number, number)
    assert len(recent) == 4
    held -= {1, 2}
    recent.put(4, 4)
    assert sorted(recent.values()) == [0, 3, 4]
    held.clear()
    recent.put(5, 5)
    assert sorted(recent.values()) == [4, 5]
