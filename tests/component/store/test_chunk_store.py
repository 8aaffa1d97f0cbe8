"""What the store promises to one process."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from cafs.errors import NotFoundError, StateError, StorageError, UsageError
from cafs.store.chunk_store import MIN_QUOTA_BYTES, ChunkStore
from cafs.store.session import budget_bytes
from tests.component.store.chunks import raw_chunk, wanted, zstd_chunk

QUOTA = MIN_QUOTA_BYTES


def test_gives_back_what_was_put(tmp_path: Path) -> None:
    chunks = [raw_chunk(1), zstd_chunk(2), raw_chunk(3, 0), raw_chunk(4, 1), raw_chunk(5, 700_000)]
    absent = raw_chunk(6)
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put(chunks)
        got = store.get([wanted(chunk) for chunk in [*chunks, absent]])
        assert got == [chunk.plain for chunk in chunks] + [None]
        assert store.has([chunks[0].digest, absent.digest]) == [True, False]
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        assert store.get([wanted(chunks[4])]) == [chunks[4].plain]
        assert (store.stats().hits, store.stats().misses) == (5, 1)


def test_putting_twice_stores_once(tmp_path: Path) -> None:
    chunk = raw_chunk(1)
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([chunk, chunk])
        store.put([chunk])
        assert store.stats().chunks == 1
        assert store.stats().stored == 1


def test_a_wrong_size_is_a_miss_and_costs_nothing(tmp_path: Path) -> None:
    chunk = zstd_chunk(1)
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([chunk])
        assert store.get([(chunk.digest, 17)]) == [None]
        assert store.get([wanted(chunk)]) == [chunk.plain]


def test_no_descriptor_of_it_outlives_an_exec(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA):
        kept = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, check=True)
    assert b"/store/" not in kept.stdout


def test_stays_within_the_quota(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        for start in range(0, 3000, 50):
            store.put([raw_chunk(seed) for seed in range(start, start + 50)])
            stats = store.stats()
            assert stats.used_bytes <= budget_bytes(QUOTA)
            assert stats.file_bytes <= QUOTA
        assert stats.evicted > 2000


def test_a_smaller_quota_shrinks_the_store(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", 4 * QUOTA) as store:
        store.put([raw_chunk(seed) for seed in range(1500)])
        assert store.stats().used_bytes > QUOTA
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(9999)])
        assert store.stats().used_bytes <= budget_bytes(QUOTA)
        assert store.get([wanted(raw_chunk(9999))]) == [raw_chunk(9999).plain]


def test_pinned_chunks_outlive_a_flood(tmp_path: Path) -> None:
    early, late = raw_chunk(-1), raw_chunk(-2)
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([early])
        store.pin("mount", [early.digest, late.digest])
        store.put([late])
        for start in range(0, 2000, 100):
            store.put([raw_chunk(seed) for seed in range(start, start + 100)])
        assert store.get([wanted(early)]) == [early.plain]
        assert store.has([late.digest]) == [True]
        store.unpin("mount")
        for start in range(2000, 4000, 100):
            store.put([raw_chunk(seed) for seed in range(start, start + 100)])
        assert store.has([late.digest]) == [False]
        assert store.stats().pinned_chunks == 0


def test_says_so_when_all_is_pinned(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        chunks = [raw_chunk(seed) for seed in range(1000)]
        store.pin("all", [chunk.digest for chunk in chunks])
        with pytest.raises(StorageError, match="full of pinned chunks"):
            store.put(chunks)
        kept = store.has([chunk.digest for chunk in chunks])
        assert 300 < sum(kept) < 1000
        assert store.get([wanted(chunks[0])]) == [chunks[0].plain]


def test_second_open_in_one_process_is_refused(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(1)])
        with pytest.raises(StateError, match="already open in this process"):
            ChunkStore.open(tmp_path / "store", QUOTA)
        assert store.has([raw_chunk(1).digest]) == [True]


def test_reading_only(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        ChunkStore.open(tmp_path / "store", QUOTA, readonly=True)
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(1)])
    with ChunkStore.open(tmp_path / "store", QUOTA, readonly=True) as store:
        assert store.get([wanted(raw_chunk(1))]) == [raw_chunk(1).plain]
        with pytest.raises(StorageError, match="read-only"):
            store.put([raw_chunk(2)])


def test_the_directory_is_private(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(1)])
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "store/chunks/data.mdb").stat().st_mode) == 0o600


def test_a_tiny_quota_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="16 MiB"):
        ChunkStore.open(tmp_path / "store", 1 << 20)


def test_a_flush_with_nothing_to_tell_writes_nothing(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", 64 << 20) as store:
        store.put([raw_chunk(1)])
        store.get([wanted(raw_chunk(1))])
        store.flush()
        (data,) = (tmp_path / "store").rglob("data.mdb")
        before = data.stat().st_mtime_ns
        store.flush()
        assert data.stat().st_mtime_ns == before
        store.get([wanted(raw_chunk(1))])
        store.flush()
        assert data.stat().st_mtime_ns > before
