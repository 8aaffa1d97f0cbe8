"""``cafs cache`` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cafs.store.chunk_store import ChunkStore
from tests.component.store.chunks import raw_chunk, wanted
from tests.component.store.damage import flip_in_frame
from tests.support.program import Outcome, run_cafs

QUOTA = 64 << 20


class Cache:
    """A cache directory and the program that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"

    def open(self) -> ChunkStore:
        return ChunkStore.open(self.store, QUOTA)

    def run(self, *arguments: str, code: int = 0, warns: str | None = None) -> Outcome:
        env = {"CAFS_CACHE_DIR": str(self.folder), "CAFS_STORE_QUOTA_BYTES": str(QUOTA)}
        return run_cafs("cache", *arguments, env=env, code=code, warns=warns)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_usage_of_no_store(cache: Cache) -> None:
    assert "no chunks yet" in cache.run().out
    assert cache.run("usage", "--json").json["chunks"] == 0
    assert not cache.store.exists()


def test_usage(cache: Cache) -> None:
    with cache.open() as store:
        store.put([raw_chunk(1), raw_chunk(2)])
        store.pin("mount-7", [raw_chunk(1).digest])
        store.get([wanted(raw_chunk(1)), wanted(raw_chunk(2)), wanted(raw_chunk(3))])
        store.flush()
        told = cache.run("--json").json  # also while somebody has it open
    assert told["chunks"] == 2
    assert told["pin_sets"] == {"mount-7": 1}
    assert told["hit_ratio"] == pytest.approx(2 / 3)
    assert "66.7% (2 hits, 1 misses)" in cache.run().out


def test_clear_leaves_what_is_pinned_unless_told(cache: Cache) -> None:
    with cache.open() as store:
        store.put([raw_chunk(seed) for seed in range(2000)])
        store.pin("mount", [raw_chunk(7).digest])
    done = cache.run("clear", "--json")
    assert (done.json["chunks"], done.json["pinned_chunks"]) == (1999, 1)
    assert done.json["returned_bytes"] > 30 << 20
    with cache.open() as store:
        assert store.get([wanted(raw_chunk(7)), wanted(raw_chunk(8))]) == [raw_chunk(7).plain, None]
    assert cache.run("clear", "--pinned", "--json").json["chunks"] == 1
    assert cache.run("--json").json["pin_sets"] == {}


def test_clear_while_in_use(cache: Cache) -> None:
    with cache.open() as store:
        store.put([raw_chunk(seed) for seed in range(2000)])
        done = cache.run("clear")
        assert "while others have the store open" in done.err
        assert store.get([wanted(raw_chunk(7))]) == [None]
        store.put([raw_chunk(7)])
        assert store.get([wanted(raw_chunk(7))]) == [raw_chunk(7).plain]


def test_gc_after_the_quota_was_lowered(cache: Cache) -> None:
    with ChunkStore.open(cache.store, 4 * QUOTA) as store:
        store.put([raw_chunk(seed, 200_000) for seed in range(800)])
    done = cache.run("gc", "--json").json
    assert done["evicted_bytes"] > 80 << 20
    assert done["returned_bytes"] > 80 << 20
    with cache.open() as store:
        assert store.stats().file_bytes <= QUOTA
        assert store.get([wanted(raw_chunk(799, 200_000))]) == [raw_chunk(799, 200_000).plain]


def test_verify(cache: Cache) -> None:
    with cache.open() as store:
        store.put([raw_chunk(seed) for seed in range(300)])
    assert cache.run("verify", "--json").json["chunks"] == 300
    flip_in_frame(cache.store, raw_chunk(5))
    done = cache.run("verify", code=3)
    assert raw_chunk(5).digest.hex() in done.out
    assert "299 chunks" in done.out
    assert cache.run("verify", "--json").json["rotten"] == []
