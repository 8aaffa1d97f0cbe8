"""The work directory of a conversion, while others begin and end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cafs.convert.workshop import work_folder

CONVERSIONS = 4000


def test_conversions_that_begin_do_not_sweep_each_other_away(tmp_path: Path) -> None:
    def convert(_number: int) -> bool:
        with work_folder(tmp_path) as folder:
            return folder.is_dir()

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(convert, range(CONVERSIONS)))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_conversion_left_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / "run-killed"
    left.mkdir()
    (left / "layer.chunks").write_bytes(b"x")
    with work_folder(tmp_path) as folder, work_folder(tmp_path) as other:
        assert set(tmp_path.iterdir()) == {folder, other}
