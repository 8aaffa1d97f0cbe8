"""Which layer indexes leave the cache."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cafs.fetch.index_quota import KeptIndex, choose_oldest, list_indexes, trim_indexes

KEPT = st.builds(
    KeptIndex,
    path=st.integers(0, 10**9).map(lambda n: Path(f"{n:064x}")),
    size=st.integers(1, 1000),
    opened_ns=st.integers(0, 10**6),
    in_use=st.booleans(),
)


@given(st.lists(KEPT, unique_by=lambda kept: kept.path), st.integers(0, 5000))
def test_what_stays_fits_and_what_goes_is_unused(kept: list[KeptIndex], quota: int) -> None:
    gone = choose_oldest(kept, quota)
    stays = [k for k in kept if not k.in_use and k not in gone]
    assert not any(k.in_use for k in gone)
    assert sum(k.size for k in stays) <= quota or len(stays) == 1
    newest = max((k.opened_ns for k in kept if not k.in_use), default=None)
    assert newest is None or any(k.opened_ns == newest for k in stays)


def test_the_oldest_file_goes_and_one_in_use_stays(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    names = [f"{number:064x}" for number in range(4)]
    for age, name in enumerate(names):
        (folder / name).write_bytes(b"x" * 100)
        os.utime(folder / name, (1000 - age, 1000 - age))
    os.link(folder / names[3], tmp_path / "used by a mount")
    (folder / ".new-unfinished").write_bytes(b"x" * 5000)
    assert trim_indexes(folder, quota_bytes=250) == 100
    assert {path.name for path in folder.iterdir()} == {names[0], names[1], names[3], ".new-unfinished"}
    assert [kept.in_use for kept in list_indexes(folder) if kept.path.name == names[3]] == [True]


def test_no_cache_yet(tmp_path: Path) -> None:
    assert trim_indexes(tmp_path / "none") == 0
