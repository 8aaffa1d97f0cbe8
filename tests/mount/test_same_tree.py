"""Both drivers show exactly the tree that unpacking would leave."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cafs.errors import StateError
from cafs.fuse.erofs_mount import mount_erofs_by_loop
from cafs.fuse.syscalls import unmount
from cafs.node.mount_state import EROFS_FILE
from tests.support.mounts import erofs_mount, flat_mount, image_mount
from tests.support.observe import Seen, observe
from tests.support.random_layers import RandomImage


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Paths in the tree are long already."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def differences(found: dict[bytes, Seen], expected: dict[bytes, Seen]) -> list[object]:
    return [
        (path, found.get(path), expected.get(path))
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    ][:5]


@pytest.mark.parametrize(("seed", "layers", "entries"), [(1, 1, 150), (2, 3, 250), (3, 12, 60), (4, 3, 600)])
def test_both_drivers_show_what_was_put_in(short_path: Path, seed: int, layers: int, entries: int) -> None:
    image = RandomImage(seed, layers, entries)
    image.write(short_path)
    with (
        image_mount(short_path / "fuse", "fuse", short_path) as fuse,
        image_mount(short_path / "flat", "erofs", short_path) as flat,
        erofs_mount(flat, short_path / "erofs", EROFS_FILE) as erofs,
    ):
        expected = image.expected()
        assert differences(observe(fuse.target), expected) == []
        assert differences(observe(erofs), expected) == []
        same = subprocess.run(
            ["diff", "-r", "--no-dereference", fuse.target, erofs], capture_output=True, check=False
        )
        assert b"differ" not in same.stdout
        assert _links(fuse.target) == _links(erofs)


def _links(root: Path) -> list[int]:
    """Link counts of all directories in the order of their paths."""
    # os.walk and not rglob, which follows symlinks to see what they are, also those with endless targets.
    return [Path(folder).lstat().st_nlink for folder in sorted(folder for folder, _, _ in os.walk(root))]


def test_the_fuse_tree_survives_a_takeover_in_the_middle_of_a_walk(short_path: Path) -> None:
    image = RandomImage(5, 4, 200)
    image.write(short_path)
    with image_mount(short_path / "fuse", "fuse", short_path) as fuse:
        # Open directories of merged and other kinds, which the next server has never heard of.
        directories = [path for path in fuse.target.iterdir() if stat.S_ISDIR(path.lstat().st_mode)]
        opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in directories]
        fuse.kill_server()
        for descriptor in opened:
            os.listdir(descriptor)  # noqa: PTH208  of an open directory
            os.close(descriptor)
        assert differences(observe(fuse.target), image.expected()) == []
        assert len(fuse.server_pids()) == 2


def test_hundreds_of_layers_fit(short_path: Path) -> None:
    image = RandomImage(6, 130, 3)
    image.write(short_path)
    with (
        image_mount(short_path / "flat", "erofs", short_path) as flat,
        erofs_mount(flat, short_path / "e", EROFS_FILE) as erofs,
    ):
        assert differences(observe(erofs), image.expected()) == []


def test_what_is_no_image_is_refused(short_path: Path) -> None:
    (short_path / "zeros").write_bytes(bytes(1 << 20))
    with (
        flat_mount(short_path / "flat", [short_path / "zeros"]) as flat,
        pytest.raises(StateError, match="cannot mount the image"),
        erofs_mount(flat, short_path / "t", "0"),
    ):
        pass


def test_a_loop_device_does_where_erofs_cannot_mount_files(short_path: Path) -> None:
    image = RandomImage(8, 2, 70)
    image.write(short_path)
    point = short_path / "point"
    point.mkdir()
    with image_mount(short_path / "flat", "erofs", short_path) as flat:
        mount_erofs_by_loop(flat.target / "layers" / EROFS_FILE, point)
        try:
            assert differences(observe(point), image.expected()) == []
        finally:
            unmount(point)
