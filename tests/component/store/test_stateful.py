"""The store against a dictionary: whatever is done, in whatever order, near a full quota."""

from __future__ import annotations

import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cafs.core.chunk import Chunk
from cafs.core.progress import SilentProgress
from cafs.errors import StorageError
from cafs.store.chunk_store import MIN_QUOTA_BYTES, ChunkStore
from cafs.store.session import budget_bytes
from tests.component.store.chunks import raw_chunk, raw_chunk_of, wanted

NAMES = st.sampled_from(["mount", "keep"])
SEEDS = st.integers(0, 80)


@cache
def chunk_of(seed: int) -> Chunk:
    """Sizes up to 2 MiB; the store holds some six of the large ones."""
    sizes = (8, 9, 100, 2000, 2001, 4080, 4081, 65_536, 131_056, 131_057, 400_000, 1 << 20, 2 << 20)
    return raw_chunk(seed, sizes[seed % len(sizes)])


class StoreMachine(RuleBasedStateMachine):
    """What was put may be missing (evicted) unless it is pinned; it is never another."""

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cafs-store-"))
        self.quota = MIN_QUOTA_BYTES
        self.store = ChunkStore.open(self.folder / "store", self.quota)
        self.put_once: set[int] = set()
        self.pins: dict[str, set[int]] = {}
        self.safe: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    def pinned(self) -> set[int]:
        return set().union(*self.pins.values())

    @rule(seeds=st.lists(SEEDS, max_size=12))
    def put(self, seeds: list[int]) -> None:
        try:
            self.store.put([chunk_of(seed) for seed in seeds])
        except StorageError:
            # Only what is pinned may stand in the way; batches before the one that failed may have been kept.
            assert self.store.stats().pinned_bytes > self.quota // 4
            present = self.store.has([chunk_of(seed).digest for seed in seeds])
            seeds = [seed for seed, kept in zip(seeds, present, strict=True) if kept]
        stats = self.store.stats()
        assert stats.used_bytes <= max(budget_bytes(self.quota), stats.pinned_bytes)
        self.put_once.update(seeds)
        self.safe.update(set(seeds) & self.pinned())

    @rule(seeds=st.lists(SEEDS, max_size=20))
    def get(self, seeds: list[int]) -> None:
        chunks = [chunk_of(seed) for seed in seeds]
        for seed, chunk, plain in zip(seeds, chunks, self.store.get(list(map(wanted, chunks))), strict=True):
            assert plain in (None, chunk.plain)
            assert plain is None or seed in self.put_once

    @rule(name=NAMES, seeds=st.sets(SEEDS, max_size=3))
    def pin(self, name: str, seeds: set[int]) -> None:
        present = dict(zip(seeds, self.store.has([chunk_of(seed).digest for seed in seeds]), strict=True))
        self.store.pin(name, [chunk_of(seed).digest for seed in seeds])
        self.pins.setdefault(name, set()).update(seeds)
        self.safe.update(seed for seed in seeds if present[seed])

    @rule(name=NAMES, seeds=st.none() | st.sets(SEEDS, max_size=3))
    def unpin(self, name: str, seeds: set[int] | None) -> None:
        self.store.unpin(name, None if seeds is None else [chunk_of(seed).digest for seed in seeds])
        self.pins[name] = set() if seeds is None else self.pins.get(name, set()) - seeds
        self.safe &= self.pinned()

    @rule(pinned=st.booleans())
    def clear(self, pinned: bool) -> None:
        self.store.clear(pinned=pinned)
        if pinned:
            self.pins = {}
            self.safe = set()
        self.put_once &= self.pinned()

    @rule(quota=st.sampled_from([MIN_QUOTA_BYTES, 20 << 20, 40 << 20]))
    def open_again(self, quota: int) -> None:
        self.store.close()
        self.quota = quota
        self.store = ChunkStore.open(self.folder / "store", quota)

    @rule()
    def gc(self) -> None:
        self.store.gc()

    @rule()
    def verify(self) -> None:
        found = self.store.verify(SilentProgress())
        assert (found.rotten, found.repaired) == ((), 0)

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def keeps_its_promises(self) -> None:
        stats = self.store.stats()
        assert stats.file_bytes <= 48 << 20  # the largest quota, and what evicting from a full file needs
        chunks = [chunk_of(seed) for seed in sorted(self.safe)]
        assert all(self.store.has([chunk.digest for chunk in chunks]))
        assert {name: len(seeds) for name, seeds in self.pins.items() if seeds} == {
            name: count for name, count in stats.pin_sets.items() if count
        }


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_refilled_many_times_in_varied_sizes_it_keeps_finding_room(tmp_path: Path) -> None:
    """Free pages must not end up so scattered that nothing fits any more."""
    rng = random.Random(5)
    pool = rng.randbytes(8 << 20)
    quota = 48 << 20
    with ChunkStore.open(tmp_path / "store", quota) as store:
        budget = budget_bytes(quota)
        written = 0
        while written < 6 * quota:
            batch = []
            for _ in range(16):
                size = int(min(3 << 20, rng.paretovariate(0.7) * 3000))
                start = rng.randrange(len(pool) - size)
                batch.append(raw_chunk_of(pool[start : start + size]))
            store.put(batch)
            written += sum(len(chunk.plain) for chunk in batch)
            assert store.has([chunk.digest for chunk in batch])[-1]
        stats = store.stats()
        # Not only in the quota: most of it is really used.
        assert budget * 0.75 < stats.used_bytes <= budget
        assert stats.file_bytes <= quota
        assert store.verify(SilentProgress()).rotten == ()
