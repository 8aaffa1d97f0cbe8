"""kill -9 of the server at any moment costs readers a pause and nothing else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import ROOT, ServedMount, flat_mount

KILLS = 12
READERS = 4


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    rng = random.Random(1)
    for i in range(400):
        directory = root / f"d{i % 20}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{i}").write_bytes(rng.randbytes(rng.choice([100, 5_000, 60_000, 300_000])))
    return root


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.erofs"
    subprocess.run(["mkfs.erofs", "-T0", str(path), str(tree)], check=True, capture_output=True)
    return path


@contextmanager
def erofs(image: Path, target: Path) -> Iterator[Path]:
    target.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro", str(image), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def sums(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@contextmanager
def reading(root: Path, expected: dict[str, str], directory: Path) -> Iterator[Callable[[int], None]]:
    """Processes that compare every byte, and a call that waits until they have read so many more files."""
    listed = directory / "sums.json"
    listed.write_text(json.dumps(expected))
    told_read, told_write = os.pipe()
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.reader", str(root), str(listed), str(seed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=told_write,
        )
        for seed in range(READERS)
    ]
    os.close(told_write)

    def wait_for(files: int) -> None:
        while files > 0:
            said = os.read(told_read, files)
            assert said, "all readers ended"
            files -= len(said)

    try:
        yield wait_for
    finally:
        os.set_blocking(told_read, True)
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.close()
        while os.read(told_read, 4096):
            pass
        os.close(told_read)
        statuses = [reader.wait(60) for reader in readers]
    assert statuses == [0] * READERS


def test_readers_through_kernel_erofs_see_no_crash(tmp_path: Path, tree: Path, image: Path) -> None:
    expected = sums(tree)
    with (
        flat_mount(tmp_path / "fuse", [image]) as mount,
        erofs(mount.target / "layers/0", tmp_path / "e") as root,
    ):
        with reading(root, expected, tmp_path) as wait_for:
            for kill in range(KILLS):
                wait_for(READERS * 3 + kill)  # since the last kill: a moment like any other
                drop_backing_cache(mount.target / "layers/0")
                mount.kill_server()
        assert sums(root) == expected
        assert len(mount.server_pids()) == KILLS + 1


def drop_backing_cache(path: Path) -> None:
    """So that the readers' next pages come from the server."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# Direct reads: a failed readahead would be tried again page by page, and no reader would see the error.
@contextmanager
def killed_while_it_holds_a_read(mount: ServedMount) -> Iterator[subprocess.Popen[bytes]]:
    """A reader whose request the server had read, and not answered, when it was killed."""
    hold = Path(f"{mount.target}.hold")
    os.mkfifo(hold)
    with subprocess.Popen(
        ["dd", f"if={mount.target / 'layers/0'}", "iflag=direct", "bs=64k", "status=none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as reader:
        assert hold.read_bytes()
        hold.unlink()
        mount.kill_server()
        yield reader


def test_what_a_killed_server_left_is_answered_by_the_next(tmp_path: Path, image: Path) -> None:
    with flat_mount(tmp_path / "fuse", [image]) as mount, killed_while_it_holds_a_read(mount) as reader:
        out, _errors = reader.communicate(timeout=30)
        assert out == image.read_bytes()


def test_without_resend_waiting_readers_get_eio_and_later_ones_their_bytes(
    tmp_path: Path, image: Path
) -> None:
    with flat_mount(tmp_path / "fuse", [image], resend=False) as mount:
        with killed_while_it_holds_a_read(mount) as reader:
            _out, errors = reader.communicate(timeout=30)
            assert os.strerror(errno.EIO).encode() in errors
        assert (mount.target / "layers/0").read_bytes() == image.read_bytes()


def test_a_mount_that_goes_away_ends_supervisor_and_server(tmp_path: Path, image: Path) -> None:
    with flat_mount(tmp_path / "fuse", [image]) as mount:
        pids = mount.server_pids()
    assert mount.process.returncode == 0
    assert not Path(f"/proc/{pids[0]}").exists()
