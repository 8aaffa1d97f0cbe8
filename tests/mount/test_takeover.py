"""kill -9 of the server at any moment costs readers a pause and nothing else."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from tests.support.mounts import FlatMount, flat_mount

KILLS = 12
READERS = 4
spawn = multiprocessing.get_context("spawn")


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


def read_again_and_again(
    root: Path, expected: dict[str, str], seed: int, stop: Event, rounds: object
) -> None:
    """Compare every byte until told to stop; the page cache is dropped file by file."""
    rng = random.Random(seed)
    names = sorted(expected)
    while not stop.is_set():
        rng.shuffle(names)
        for name in names:
            fd = os.open(root / name, os.O_RDONLY)
            with os.fdopen(fd, "rb") as file:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert hashlib.sha256(file.read()).hexdigest() == expected[name], name
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            rounds.release()  # type: ignore[attr-defined]


def test_readers_through_kernel_erofs_see_no_crash(tmp_path: Path, tree: Path, image: Path) -> None:
    expected = sums(tree)
    stop, rounds = spawn.Event(), spawn.Semaphore(0)
    with (
        flat_mount(tmp_path / "fuse", [image]) as mount,
        erofs(mount.target / "layers/0", tmp_path / "e") as root,
    ):
        readers = [
            spawn.Process(target=read_again_and_again, args=(root, expected, seed, stop, rounds))
            for seed in range(READERS)
        ]
        for reader in readers:
            reader.start()
        for kill in range(KILLS):
            for _ in range(READERS * 3 + kill):  # files read since the last kill: a moment like any other
                assert rounds.acquire(timeout=30)
            drop_backing_cache(mount.target / "layers/0")
            mount.kill_server()
        stop.set()
        for reader in readers:
            reader.join(60)
            assert reader.exitcode == 0
        assert sums(root) == expected
        assert len(mount.server_pids()) == KILLS + 1


def drop_backing_cache(path: Path) -> None:
    """So that the readers' next pages come from the server."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# Direct reads: a failed readahead would be tried again page by page, and no reader would see the error.
@contextmanager
def killed_while_it_holds_a_read(mount: FlatMount) -> Iterator[subprocess.Popen[bytes]]:
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
