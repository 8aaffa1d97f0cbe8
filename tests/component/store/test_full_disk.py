"""A disk that fills up under the store, and filesystems it refuses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cafs.core.progress import SilentProgress
from cafs.errors import StorageError
from cafs.store.chunk_store import ChunkStore
from cafs.store.location import refuse_network_filesystem
from cafs.store.presence import SUSPECT, Presence
from tests.component.store.chunks import raw_chunk, wanted
from tests.support.logs import ExpectedLogs

QUOTA = 64 << 20


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", arguments[-1]], check=True)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "tmpfs":
        with mounted("-t", "tmpfs", "-o", "size=24m", "tmpfs", folder):
            yield folder
        return
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted("-o", "loop", image, folder):
        yield folder


def fill(folder: Path) -> Path:
    """Leave not a byte free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                if not file.write(bytes(4096)):
                    break
        except OSError:
            pass
    return ballast


def test_a_full_disk_costs_storing_and_nothing_else(small_disk: Path) -> None:
    chunks = [raw_chunk(seed) for seed in range(1500)]
    with ChunkStore.open(small_disk / "store", QUOTA) as store:
        store.put(chunks[:100])
        with pytest.raises(StorageError, match="the disk is full"):
            store.put(chunks)
        with pytest.raises(StorageError, match="the disk is full"):
            store.put([raw_chunk(seed) for seed in range(2000, 3500)])
        assert store.get([wanted(chunk) for chunk in chunks[:100]]) == [chunk.plain for chunk in chunks[:100]]
        held = store.stats().chunks
        assert held >= 100
        assert store.verify(SilentProgress()).rotten == ()
        store.clear()
        store.put(chunks[:300])  # the space is there again
        assert store.get([wanted(chunks[299])]) == [chunks[299].plain]
    with ChunkStore.open(small_disk / "store", QUOTA) as store:
        assert store.verify(SilentProgress()).chunks == 300


def test_opening_on_a_full_disk(small_disk: Path) -> None:
    """LMDB would die of SIGBUS here, in its sparse lock file."""
    fill(small_disk)
    with pytest.raises(StorageError, match=r"No space left|disk is full"):
        ChunkStore.open(small_disk / "store", QUOTA)


def test_an_old_store_opens_and_reads_on_a_full_disk(small_disk: Path) -> None:
    with ChunkStore.open(small_disk / "store", QUOTA) as store:
        store.put([raw_chunk(seed) for seed in range(20)])
    ballast = fill(small_disk)
    with ChunkStore.open(small_disk / "store", QUOTA) as store:
        assert store.get([wanted(raw_chunk(seed)) for seed in range(20)]) == [
            raw_chunk(seed).plain for seed in range(20)
        ]
        with pytest.raises(StorageError, match="the disk is full"):
            store.put([raw_chunk(seed) for seed in range(100, 200)])
        ballast.unlink()
        store.put([raw_chunk(seed) for seed in range(100, 200)])


def test_leaving_a_suspect_store_on_a_full_disk(small_disk: Path, expected_logs: ExpectedLogs) -> None:
    """Whoever comes next is to check it, although nothing more can be written."""
    expected_logs.expect("how the chunk store was left cannot be written")
    left = Presence(small_disk)
    ballast = fill(small_disk)
    left.withdraw(clean=False, verdict="a page cannot be")
    ballast.unlink()
    found = Presence(small_disk)
    assert found.found_dead
    assert found.verdict() == SUSPECT
    found.absolve()
    found.withdraw(clean=True)
    last = Presence(small_disk)
    assert not last.found_dead
    last.withdraw(clean=True)


def test_network_filesystems_are_refused(tmp_path: Path) -> None:
    source, image, folder = tmp_path / "source", tmp_path / "image", tmp_path / "fuse"
    source.mkdir()
    folder.mkdir()
    subprocess.run(["mksquashfs", source, image, "-quiet", "-no-progress"], check=True)
    subprocess.run(["squashfuse", image, folder], check=True)
    try:
        with pytest.raises(StorageError, match="fuse filesystem, where LMDB is not safe"):
            refuse_network_filesystem(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
    refuse_network_filesystem(tmp_path)
