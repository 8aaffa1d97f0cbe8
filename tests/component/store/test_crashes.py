"""Processes that die, stop, fork and work side by side on one store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cafs.core.progress import SilentProgress
from cafs.errors import StateError, StorageError
from cafs.store.chunk_store import ChunkStore
from cafs.store.environment import structure_findings
from cafs.store.location import unreadable
from tests.component.store.chunks import raw_chunk, wanted
from tests.support.program import ROOT

QUOTA = 24 << 20


def start(*arguments: object) -> subprocess.Popen[str]:
    """A hammer in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.component.store.hammer", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, ""), out + err


@contextmanager
def held_open(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A process inside a read transaction."""
    process = start("hold", store, QUOTA)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def assert_sound(directory: Path, quota: int = QUOTA) -> int:
    """Every page and every chunk; returns how many chunks there are."""
    assert not (directory / "damaged").exists()
    with ChunkStore.open(directory, quota) as store:
        found = store.verify(SilentProgress())
        assert (found.rotten, found.repaired) == ((), 0)
        assert store.stats().file_bytes <= quota
    assert structure_findings(directory / "chunks") == []
    return found.chunks


def test_killed_a_hundred_times_during_writes(tmp_path: Path) -> None:
    finish(start("crash", tmp_path / "store", QUOTA, 100))
    assert assert_sound(tmp_path / "store") > 100


def test_the_whole_file_is_read_when_deaths_follow_each_other(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with ChunkStore.open(directory, QUOTA) as store:
        store.put([raw_chunk(1)])
    for deaths in range(1, 5):
        with held_open(directory):
            pass
        with held_open(directory):
            assert (directory / "deaths").read_text() == str(2 * deaths - 1)
    with ChunkStore.open(directory, QUOTA) as store:
        assert store.get([wanted(raw_chunk(1))]) == [raw_chunk(1).plain]
    assert not (directory / "deaths").exists()
    # What a disk answers that cannot read a sector any more; no page of this is mapped at 0.
    assert unreadable(Path("/proc/self/mem")) == ["/proc/self/mem: Input/output error"]


def test_four_processes_on_one_store(tmp_path: Path) -> None:
    workers = [start("work", tmp_path / "store", QUOTA, seed, 150) for seed in range(4)]
    for worker in workers:
        finish(worker)
    assert assert_sound(tmp_path / "store") > 100


def test_killed_while_others_work_on(tmp_path: Path) -> None:
    steady = start("work", tmp_path / "store", QUOTA, 1, 200)
    finish(start("crash", tmp_path / "store", QUOTA, 20))
    finish(steady)
    assert assert_sound(tmp_path / "store") > 100


def test_who_died_in_the_middle_of_a_read_does_not_hold_pages_back(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(seed) for seed in range(300)])
        with held_open(tmp_path / "store"):
            pass
        for start_at in range(300, 6000, 300):
            store.put([raw_chunk(seed) for seed in range(start_at, start_at + 300)])
        assert store.get([wanted(raw_chunk(5999))]) == [raw_chunk(5999).plain]


def test_a_reader_that_was_stopped_costs_storing_and_nothing_else(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(seed) for seed in range(300)])
        with held_open(tmp_path / "store") as reader:
            reader.send_signal(signal.SIGSTOP)
            many = [raw_chunk(seed) for seed in range(300, 6000)]
            with pytest.raises(StorageError, match="no room"):
                store.put(many)
            assert store.stats().chunks > 0
            assert store.has([raw_chunk(1).digest]) in ([True], [False])
        store.put([raw_chunk(9000)])
        assert store.get([wanted(raw_chunk(9000))]) == [raw_chunk(9000).plain]
    assert_sound(tmp_path / "store")


def test_another_process_may_raise_the_quota(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(seed) for seed in range(100)])
        finish(start("work", tmp_path / "store", 4 * QUOTA, 5, 400))
        assert store.stats().file_bytes > QUOTA  # else nothing was tried here
        assert store.get([wanted(raw_chunk(3))]) == [raw_chunk(3).plain]
        store.put([raw_chunk(-1)])
        assert store.get([wanted(raw_chunk(-1))]) == [raw_chunk(-1).plain]


def test_a_raised_quota_is_used_by_who_opened_before(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(1)])
        finish(start("work", tmp_path / "store", 4 * QUOTA, 5, 1))
        for start_at in range(0, 3000, 300):
            store.put([raw_chunk(seed) for seed in range(start_at, start_at + 300)])
        assert store.stats().used_bytes > 2 * QUOTA


@pytest.mark.parametrize("pinned", [False, True])
def test_threads_go_on_while_the_file_is_replaced_and_compacted(tmp_path: Path, pinned: bool) -> None:
    over = threading.Event()

    def read_and_write(store: ChunkStore, first: int) -> int:
        chunks = [raw_chunk(seed) for seed in range(first, first + 500)]
        rounds = 0
        while not (over.is_set() and rounds):
            store.put(chunks)
            got = store.get([wanted(chunk) for chunk in chunks])
            assert all(plain in (None, chunk.plain) for chunk, plain in zip(chunks, got, strict=True))
            rounds += 1
        return rounds

    with ChunkStore.open(tmp_path / "store", 4 * QUOTA) as store, ThreadPoolExecutor(2) as pool:
        if pinned:  # then rows are removed and the rest is copied; else the file is replaced
            store.pin("keep", [raw_chunk(7).digest])
        workers = [pool.submit(read_and_write, store, first) for first in (0, 1000)]
        returned = 0
        while returned < 16 << 20 and not any(worker.done() for worker in workers):
            returned += store.clear().returned_bytes
        over.set()
        assert all(worker.result() > 0 for worker in workers)
    assert_sound(tmp_path / "store", 4 * QUOTA)


def test_what_was_copied_when_it_was_killed_takes_no_room_for_ever(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(1)])
    copy = tmp_path / "store" / "compact"
    copy.mkdir()
    (copy / "data.mdb").write_bytes((tmp_path / "store" / "chunks" / "data.mdb").read_bytes())
    with ChunkStore.open(tmp_path / "store", QUOTA, readonly=True):
        assert copy.exists()  # who only reads changes nothing
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        assert not copy.exists()
        assert store.get([wanted(raw_chunk(1))]) == [raw_chunk(1).plain]


def test_a_forked_child_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put([raw_chunk(1)])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.get([wanted(raw_chunk(1))])
            except StateError:
                store.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert store.get([wanted(raw_chunk(1))]) == [raw_chunk(1).plain]
        with pytest.raises(StateError, match="already open"):
            ChunkStore.open(tmp_path / "store", QUOTA)
    assert assert_sound(tmp_path / "store") == 1
