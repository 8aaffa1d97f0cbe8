"""How the kernel's EROFS reads from our files: how much ahead, and kept how often."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from cafs.fuse.erofs_mount import COLD_READAHEAD_KB, READAHEAD_KB, set_readahead
from tests.support.mounts import erofs_mount, flat_mount

CONTENT = bytes(range(256)) * 32768


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(CONTENT)
    made = tmp_path / "image"
    subprocess.run(["mkfs.erofs", "-T0", made, tmp_path / "tree"], check=True, capture_output=True)
    return made


def devices() -> frozenset[Path]:
    """The kernel's knobs of what is mounted."""
    return frozenset(Path("/sys/class/bdi").glob("erofs-*"))


def read_ahead(device: Path) -> int:
    """Kilobytes; 0 of one that has gone."""
    with suppress(OSError):
        return int((device / "read_ahead_kb").read_text())
    return 0


def test_what_erofs_has_read_is_kept_once(tmp_path: Path, image: Path) -> None:
    with flat_mount(tmp_path / "fuse", [image]) as mount, erofs_mount(mount, tmp_path / "root", "0") as root:
        assert (root / "large").read_bytes() == CONTENT
        kept = {path: kept_bytes(path) for path in (root / "large", mount.target / "layers/0")}
    assert kept[root / "large"] == len(CONTENT)
    assert kept[mount.target / "layers/0"] < len(CONTENT) / 10, "metadata only"


def kept_bytes(path: Path) -> int:
    """How much of a file is in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output=RES", path]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(("cold", "kilobytes"), [(True, COLD_READAHEAD_KB), (False, READAHEAD_KB)])
def test_less_is_read_ahead_where_bytes_come_over_a_link(
    tmp_path: Path, image: Path, cold: bool, kilobytes: int
) -> None:
    before = devices()
    with flat_mount(tmp_path / "fuse", [image]) as mount:
        with erofs_mount(mount, tmp_path / "root", "0", cold=cold):
            new = devices() - before  # somebody else on this machine may mount, too
            assert kilobytes in set(map(read_ahead, new))
            set_readahead(new, 256)
            assert 256 in set(map(read_ahead, new))
        set_readahead(new, READAHEAD_KB)  # they are gone: nothing happens
