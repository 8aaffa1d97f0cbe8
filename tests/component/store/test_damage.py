"""Damaged files: an error, a miss or a fresh start, never a wrong byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cafs.core.chunk import Chunk
from cafs.core.progress import SilentProgress
from cafs.errors import IntegrityError, StorageError
from cafs.store.chunk_store import MIN_QUOTA_BYTES, ChunkStore
from cafs.store.opening import QUICKLY_CHECKED_BYTES
from cafs.store.tables import STATE_KEY
from tests.component.store.chunks import raw_chunk, wanted, zstd_chunk
from tests.component.store.damage import data_file, flip, flip_in_frame
from tests.component.store.test_crashes import held_open
from tests.support.logs import ExpectedLogs
from tests.support.program import ROOT

QUOTA = MIN_QUOTA_BYTES
CHUNKS = [raw_chunk(seed) for seed in range(200)]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed store that holds ``CHUNKS``."""
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put(CHUNKS)
    return tmp_path / "store"


def page_of_a_row(store: Path) -> int:
    """Offset of a page of LMDB's tree: the last one that names this chunk."""
    return data_file(store).read_bytes().rindex(CHUNKS[50].digest) // 4096 * 4096


@pytest.mark.parametrize("chunk", [CHUNKS[3], zstd_chunk(1), raw_chunk(9, 400_000)])
def test_a_rotten_chunk_is_dropped_and_can_be_stored_again(
    filled: Path, chunk: Chunk, expected_logs: ExpectedLogs
) -> None:
    with ChunkStore.open(filled, QUOTA) as store:
        store.put([chunk])
    flip_in_frame(filled, chunk)
    expected_logs.expect(f"{chunk.digest.hex()}.*; dropped")
    with ChunkStore.open(filled, QUOTA) as store:
        assert store.get([wanted(chunk), wanted(CHUNKS[4])]) == [None, CHUNKS[4].plain]
        assert store.has([chunk.digest]) == [False]
        assert store.stats().rotten == 1
        store.put([chunk])
        assert store.get([wanted(chunk)]) == [chunk.plain]


def test_a_reader_cannot_drop_and_warns_once(
    filled: Path, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("; dropped")
    flip_in_frame(filled, CHUNKS[3])
    with ChunkStore.open(filled, QUOTA, readonly=True) as store:
        for _ in range(3):
            assert store.get([wanted(CHUNKS[3])]) == [None]
    assert len([record for record in caplog.records if "dropped" in record.message]) == 1


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_set_aside_or_loses_what_was_cut_off(
    filled: Path, keep: float, expected_logs: ExpectedLogs
) -> None:
    os.truncate(data_file(filled), int(data_file(filled).stat().st_size * keep))
    expected_logs.allow("is damaged .* set aside|; dropped")
    with ChunkStore.open(filled, QUOTA) as store:
        got = store.get([wanted(chunk) for chunk in CHUNKS])
        assert all(plain in (None, chunk.plain) for chunk, plain in zip(CHUNKS, got, strict=True))
        store.put(CHUNKS)
        assert store.get([wanted(chunk) for chunk in CHUNKS]) == [chunk.plain for chunk in CHUNKS]
    if keep < 0.95:  # the last pages of the file may be free ones, or not
        assert (filled / "damaged").exists() == (keep > 0)


def test_verify_finds_a_damaged_page_and_the_next_use_starts_afresh(
    filled: Path, expected_logs: ExpectedLogs
) -> None:
    with ChunkStore.open(filled, QUOTA) as store:
        flip(filled, page_of_a_row(filled) + 10, 0x03)  # a leaf page that says it is a branch
        with pytest.raises(IntegrityError, match="is damaged"):
            store.verify(SilentProgress())
    expected_logs.expect("is damaged .* set aside")
    with ChunkStore.open(filled, QUOTA) as store:
        assert store.stats().chunks == 0
        store.put(CHUNKS)
    assert (filled / "damaged").is_dir()
    with ChunkStore.open(filled, QUOTA) as store:
        store.gc()
    assert not (filled / "damaged").exists()


def test_a_large_store_is_checked_from_the_second_death_on(filled: Path, expected_logs: ExpectedLogs) -> None:
    flip(filled, page_of_a_row(filled) + 10, 0x03)
    os.truncate(data_file(filled), QUICKLY_CHECKED_BYTES + 4096)
    for _ in range(2):
        with held_open(filled):
            assert not (filled / "damaged").exists()
    expected_logs.expect("is damaged .* set aside")
    with ChunkStore.open(filled, QUOTA) as store:
        assert store.stats().chunks == 0


def test_an_error_of_lmdb_makes_the_store_suspect(filled: Path, expected_logs: ExpectedLogs) -> None:
    flip(filled, page_of_a_row(filled) + 10, 0x03)
    with ChunkStore.open(filled, QUOTA) as store, pytest.raises(StorageError):
        store.get([wanted(chunk) for chunk in CHUNKS])
    expected_logs.expect("is damaged .* set aside")
    with ChunkStore.open(filled, QUOTA) as store:
        store.put(CHUNKS)
        assert store.get([wanted(CHUNKS[50])]) == [CHUNKS[50].plain]


def test_damaged_counters_are_an_error_of_the_store_whoever_meets_them(
    filled: Path, expected_logs: ExpectedLogs
) -> None:
    """Its users go on without a store that fails; an IntegrityError is a chunk's."""
    expected_logs.allow("which chunks were read is forgotten|is damaged")
    with ChunkStore.open(filled, QUOTA) as store:
        with store._session._env.write() as txn:
            txn.put(STATE_KEY, b"rotten", db=store._session.tables.state)
        store.get([wanted(CHUNKS[0])])
        for use in (store.flush, lambda: store.pin("set", [CHUNKS[0].digest]), lambda: store.put(CHUNKS[:1])):
            with pytest.raises(StorageError, match="damaged"):
                use()
    with ChunkStore.open(filled, QUOTA) as store:
        assert store.stats().chunks == 0


def test_rows_under_a_wrong_name_are_found_by_verify(filled: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("is damaged .* set aside")
    found = 0
    for number in range(40, 60):
        copy = filled.with_name(str(number))
        shutil.copytree(filled, copy)
        # The last place in the file: a row, a place in the queue, or an old copy of their page.
        flip(copy, data_file(copy).read_bytes().rindex(CHUNKS[number].digest) + 31)
        found += verify_and_go_on(copy)
    assert found >= 3


def verify_and_go_on(directory: Path) -> bool:
    """Whether verify found anything; afterwards, or at the next opening, all must be well."""
    with ChunkStore.open(directory, QUOTA) as store:
        try:
            first = store.verify(SilentProgress())
        except IntegrityError:
            found = True
        else:
            found = bool(first.repaired or first.rotten)
            assert store.verify(SilentProgress()).repaired == 0
    with ChunkStore.open(directory, QUOTA) as store:
        store.put([raw_chunk(seed) for seed in range(2000, 2700)])
        assert store.verify(SilentProgress()).repaired == 0
    return found


def test_no_damage_of_a_file_gives_a_wrong_byte_or_a_store_that_stays_broken(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.component.store.survive", tmp_path, "60"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
