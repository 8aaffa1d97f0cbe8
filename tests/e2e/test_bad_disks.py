"""A disk that fills up under a conversion or a mount, a store that rots, and two that share one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.program import cafs_command
from tests.support.user import DRIVERS, QUICK, User

FILES = {f"file{n:02}": random.Random(n).randbytes(500_000) for n in range(24)}


@pytest.fixture
def converted(user: User) -> User:
    """With 12 MB of files in the image."""
    tree = user.path / "tree"
    tree.mkdir()
    for name, content in FILES.items():
        (tree / name).write_bytes(content)
    user.cafs("convert", f"dir:{tree}", user.image)
    return user


@pytest.fixture
def small_disk(converted: User) -> Iterator[Path]:
    """The user's cache on a filesystem of 6 MiB: less than the image."""
    disk = converted.path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "cafs-test-disk", disk], check=True)
    converted.cache = disk / "cache"
    yield disk
    subprocess.run(["umount", disk], check=True)


def whole(tree: Path) -> bool:
    """Whether every file is there with its bytes."""
    return {path.name: path.read_bytes() for path in tree.iterdir()} == FILES


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_disk_that_fills_up_under_a_mount_costs_storing_only(
    converted: User, small_disk: Path, driver: str
) -> None:
    with converted.mounted(converted.image, f"--driver={driver}") as tree:
        assert whole(tree)
        converted.forget_pages()
        assert whole(tree)
        assert "full" in converted.log() or "No space" in converted.log()
    converted.cafs("cache", "verify")


def test_a_mount_on_a_full_disk_is_refused_or_works(converted: User, small_disk: Path) -> None:
    """Not even the index has room: one line that says so. As soon as there is room, it mounts."""
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):  # that no space is left
        while file.write(bytes(4096)):
            pass
    converted.cafs("mount", converted.image, converted.target, code=1, says="[Nn]o space|full")
    converted.assert_nothing_mounted()
    ballast.unlink()
    with converted.mounted(converted.image) as tree:
        assert whole(tree)


def test_convert_into_a_full_disk_leaves_nothing(converted: User, small_disk: Path) -> None:
    source = f"dir:{converted.path}/tree"
    converted.cafs("convert", source, f"oci:{converted.path}/other:v1", code=1, says="[Nn]o space")
    converted.assert_no_work_left()
    assert not (converted.path / "other/index.json").exists()
    converted.cache = converted.path / "cache"
    converted.cafs("convert", source, f"oci:{small_disk}/out:v1", code=1, says="[Nn]o space")
    converted.assert_no_work_left()
    assert not (small_disk / "out/index.json").exists()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_store_that_rots_under_a_mount_gives_no_wrong_byte(converted: User, driver: str) -> None:
    """In every file's content: what becomes of rotten pages of LMDB's tree, the store's own tests show."""
    with converted.mounted(converted.image) as tree:
        assert whole(tree)
    (data,) = converted.cache.glob("**/data.mdb")
    kept = data.read_bytes()
    with data.open("r+b") as file:
        for content in FILES.values():
            file.seek(kept.index(content[250_000:250_032]))
            file.write(b"rot")
    with converted.mounted(converted.image, f"--driver={driver}") as tree:
        assert whole(tree), "what is rotten is fetched again"
        assert "does not match its digest; dropped" in converted.log()


def test_two_mounts_share_one_store_and_one_is_killed(converted: User) -> None:
    other = User(converted.path / "other", QUICK)
    other.cache = converted.cache
    with (
        converted.mounted(converted.image, "--driver=fuse") as first,
        other.mounted(converted.image, "--driver=fuse") as second,
        ThreadPoolExecutor(4) as pool,
    ):
        reads = [pool.submit(whole, tree) for tree in (first, second, first, second)]
        (server,) = other.run_dir.glob("*/server.pid")
        for _ in range(3):
            pid = int(server.read_text())
            os.kill(pid, signal.SIGKILL)
            while server.read_text() in {"", f"{pid}\n", str(pid)}:
                os.sched_yield()
        assert all(read.result(60) for read in reads)
    converted.cafs("cache", "verify")


def test_a_conversion_interrupted_while_it_pushes_leaves_no_manifest(converted: User) -> None:
    """Ctrl-C at the moment when the first blob has arrived in the target."""
    target = converted.path / "target"
    source = f"dir:{converted.path}/tree"
    process = subprocess.Popen(
        [*cafs_command("convert", source, f"oci:{target}:v1"), *converted.flags],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(converted.cache.glob("convert/*/*.chunks")):
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, told
    assert told.count("cafs: ") == 1
    converted.assert_no_work_left()
    assert not (target / "index.json").exists()
    converted.cafs("convert", source, f"oci:{target}:v1")
    converted.cafs("check", f"oci:{target}:v1")
