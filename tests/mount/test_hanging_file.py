"""A layer whose registry hangs: whoever reads it waits, whoever reads another one does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafs.fuse.session import MAX_UNDER_WAY
from tests.support.mounts import flat_mount
from tests.support.patience import PATIENCE_S

MANY = MAX_UNDER_WAY + 300


@contextmanager
def reading(file: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    """So many reads of a file at once."""
    command = [sys.executable, "-m", "tests.support.many_reads", str(file), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "asked\n"
        yield reader


def test_reads_of_a_file_that_hangs_take_no_places_of_others(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    for file in files:
        file.write_bytes(bytes(8192))
    hangs = tmp_path / "one.hangs"
    hangs.touch()
    with flat_mount(tmp_path / "fuse", files) as mount:
        one, other = (mount.target / "layers" / name for name in ("0", "1"))
        with reading(one, MANY) as hanging, reading(other, 8) as quick:
            try:
                assert quick.wait(PATIENCE_S) == 0
                subprocess.run(["cat", other], check=True, capture_output=True, timeout=PATIENCE_S)
                assert hanging.poll() is None
            finally:
                hangs.unlink()
            assert hanging.wait(PATIENCE_S) == 0
