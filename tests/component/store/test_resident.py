"""Pages of maps that are given back: those of store and indexes, and nobody else's."""

from __future__ import annotations

import mmap
import re
import threading
from pathlib import Path

from cafs.fetch.resident import release_mapped_pages
from cafs.index.mapped_file import map_file
from cafs.store.chunk_store import ChunkStore
from tests.component.store.chunks import raw_chunk, wanted

QUOTA = 64 << 20
_RESIDENT = re.compile(r"^Rss: +(\d+) kB$", re.MULTILINE)


def resident_kb(path: Path) -> int:
    """How much of a file this process has in its tables."""
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    found = [_RESIDENT.search(text) for text in maps if text.partition("\n")[0].endswith(f" {path}")]
    return sum(int(match[1]) for match in found if match)


def map_all_of(path: Path) -> mmap.mmap:
    """A shared map whose pages were all touched."""
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    assert sum(mapping[:: mmap.PAGESIZE]) > 0
    return mapping


def test_pages_of_store_and_indexes_are_given_back_and_no_others(tmp_path: Path) -> None:
    """Of a map of others nobody here knows whether it is still there, or what lies at its address."""
    files = [tmp_path / name for name in ("index", "strange")]
    for path in files:
        path.write_bytes(b"\1" * (4 << 20))
    index, strange = files
    chunks = [raw_chunk(seed) for seed in range(100)]
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put(chunks)
        data = tmp_path / "store" / "chunks" / "data.mdb"
        mapped, other = map_file(index, "test"), map_all_of(strange)
        assert sum(mapped[:: mmap.PAGESIZE]) == 1024
        assert None not in store.get([wanted(chunk) for chunk in chunks])
        before = resident_kb(data)
        assert before > 1000
        assert resident_kb(index) == resident_kb(strange) == 4096
        assert release_mapped_pages(store, 0)
        assert resident_kb(data) < before / 4
        assert resident_kb(index) == 0
        assert resident_kb(strange) == 4096
        assert mapped[:] == b"\1" * (4 << 20)
    closed = map_file(index, "test")
    closed.close()
    assert release_mapped_pages(None, 0)
    assert not release_mapped_pages(None, 1 << 40)
    other.close()


def test_who_reads_meanwhile_gets_the_right_bytes(tmp_path: Path) -> None:
    chunks = [raw_chunk(seed) for seed in range(40)]
    expected = [chunk.plain for chunk in chunks]
    ended, wrong = threading.Event(), list[int]()
    with ChunkStore.open(tmp_path / "store", QUOTA) as store:
        store.put(chunks)

        def read() -> None:
            for number in range(30):
                if store.get([wanted(chunk) for chunk in chunks]) != expected:
                    wrong.append(number)
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        while not ended.is_set():
            release_mapped_pages(store, 0)
        reader.join()
    assert wrong == []
