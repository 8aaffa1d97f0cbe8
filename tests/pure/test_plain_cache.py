"""Chunks in memory: what is about to be read is not driven out by what was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cafs.fetch.plain_cache import PlainCache

A, B, C, D = (name * 10 for name in (b"a", b"b", b"c", b"d"))


def test_the_least_recently_used_goes_first() -> None:
    cache = PlainCache(25)
    cache.put(b"a", A)
    cache.put(b"b", B)
    assert cache.get(b"a") == A
    cache.put(b"c", C)
    assert list(cache) == [b"a", b"c"]


def test_what_was_fetched_ahead_stays_until_it_is_read() -> None:
    cache = PlainCache(20, 25)
    cache.put_ahead(b"a", A)
    for name, plain in ((b"b", B), (b"c", C), (b"d", D)):
        cache.put(name, plain)
    assert b"a" in cache
    assert b"b" not in cache
    assert cache.get(b"a") == A, "now it is one that was read"
    cache.put(b"b", B)
    cache.put(b"c", C)
    assert b"a" not in cache


def test_too_much_fetched_ahead_counts_as_read() -> None:
    cache = PlainCache(20, 15)
    for name, plain in ((b"a", A), (b"b", B), (b"c", C), (b"d", D)):
        cache.put_ahead(name, plain)
    assert sorted(cache) == [b"b", b"c", b"d"]


def test_what_nobody_reads_is_let_go() -> None:
    cache = PlainCache(10, 100)
    cache.put_ahead(b"a", A)
    cache.let_go_unread()
    cache.put_ahead(b"b", B)
    assert len(cache) == 2
    cache.let_go_unread()
    assert cache.get(b"a") == A
    cache.put(b"c", C)
    assert sorted(cache) == [b"b", b"c"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "put_ahead", "get", "age"]), st.integers(0, 9), st.integers(0, 30))
    ),
)
def test_it_is_bounded_and_right(steps: list[tuple[str, int, int]]) -> None:
    cache, sizes = PlainCache(50, 40), dict[bytes, int]()
    for what, number, wanted in steps:
        name = bytes([number])
        size = sizes.setdefault(name, wanted)
        if what == "age":
            cache.let_go_unread()
        elif what == "get":
            assert cache.get(name) in {None, bytes([number]) * size}
        else:
            getattr(cache, what)(name, bytes([number]) * size)
        kept = list(cache)
        assert len(kept) == len(set(kept)) == len(cache)
        assert sum(sizes[one] for one in kept) <= 90
        assert cache.used_bytes <= 50
