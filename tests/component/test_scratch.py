"""Tables in scratch files: what a reader keeps, what growing and giving memory back leave alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cafs.index.scratch import Pool, Scratch

MEASURED = Path(__file__).parent.parent / "support" / "many_entries.py"
ENTRIES = 100_000


@pytest.fixture(params=["memory", "files"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    return Scratch(tmp_path if request.param == "files" else None)


def test_rows_stay_when_a_table_grows_and_its_pages_go(scratch: Scratch) -> None:
    rows = scratch.rows(16)
    early = rows.column("Q", 8)
    early[0], early[1] = 7, 1 << 63
    rows.grow(1_000_000)
    late = rows.column("Q", 8)
    assert len(late) >= 1_000_000
    assert (late[0], late[1], late[2], late[999_999]) == (7, 1 << 63, 0, 0)
    late[1] = 5
    scratch.unmap_pages()
    assert (early[0], early[1]) == (7, 5), "a reader of the smaller map sees the same rows"
    assert rows.column("Q", 0)[1] == 0


def test_a_pool_gives_back_what_it_got(scratch: Scratch) -> None:
    pool = Pool(scratch)
    contents = [os.urandom(n * 37 % 5000) for n in range(300)]
    places = [(pool.append(content), len(content)) for content in contents]
    scratch.unmap_pages()
    assert [pool.read(*place) for place in places] == contents


def test_files_have_no_name_and_go_with_their_table(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    before = _open_files()
    rows = scratch.rows(8)
    assert not list(tmp_path.iterdir())
    assert _open_files() > before
    scratch.drop(rows)
    del rows
    assert _open_files() == before


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "cafs-test-scratch", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_is_an_error_and_no_broken_map(small_disk: Path) -> None:
    scratch = Scratch(small_disk)
    rows = scratch.rows(8)
    with pytest.raises(OSError, match="No space left"):
        rows.grow(1 << 18)
    rows.column("Q")[0] = 1
    assert rows.column("Q")[0] == 1


def test_memory_does_not_grow_with_the_entries_of_a_layer(tmp_path: Path) -> None:
    """Half of them in one directory, each file of other content, and the tables may have 8 MiB resident.

    In memory 80,000 entries took 40 MiB more; what may come on top of the 8 are the pages that come back
    between two looks at what is resident, and the names that are sorted at once.
    """
    told = subprocess.run(
        [sys.executable, MEASURED, tmp_path, str(ENTRIES), str(8 << 20)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"PYTHONPATH": "."},
    ).stdout.split()
    grown_bytes, scratch_bytes, inodes = map(int, told)
    assert inodes == ENTRIES + 1 + ENTRIES // 100
    assert scratch_bytes > 20 << 20
    assert grown_bytes < 24 << 20
