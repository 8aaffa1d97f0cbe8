"""kill -9 of the server at any moment costs readers a pause and nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.mounts import ServedMount, flat_mount, image_mount
from tests.support.patience import PATIENCE_S
from tests.support.peers import wait_for
from tests.support.processes import all_ended
from tests.support.readers import READERS, reading

KILLS = 12


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


def test_readers_through_kernel_erofs_see_no_crash(tmp_path: Path, tree: Path, image: Path) -> None:
    expected = sums(tree)
    with (
        flat_mount(tmp_path / "fuse", [image]) as mount,
        erofs(mount.target / "layers/0", tmp_path / "e") as root,
    ):
        with reading(root, expected, tmp_path) as wait_for:
            for kill in range(KILLS):
                wait_for(READERS * 3 + kill)  # since the last kill: a moment like any other
                mount.kill_server()
        assert sums(root) == expected
        assert len(mount.server_pids()) == KILLS + 1


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
        out, _errors = reader.communicate(timeout=PATIENCE_S)
        assert out == image.read_bytes()


def test_without_resend_waiting_readers_get_eio_and_later_ones_their_bytes(
    tmp_path: Path, image: Path
) -> None:
    with flat_mount(tmp_path / "fuse", [image], resend=False) as mount:
        with killed_while_it_holds_a_read(mount) as reader:
            _out, errors = reader.communicate(timeout=PATIENCE_S)
            assert os.strerror(errno.EIO).encode() in errors
        assert (mount.target / "layers/0").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("resend", [True, False])
def test_where_no_server_can_begin_readers_are_told_until_one_does(
    tmp_path: Path, image: Path, resend: bool
) -> None:
    with flat_mount(tmp_path / "fuse", [image], resend=resend) as mount:
        fails, file = Path(f"{mount.target}.fails"), mount.target / "layers/0"
        assert file.exists()  # the first server has begun
        fails.touch()
        with killed_while_it_holds_a_read(mount) as reader:
            _out, errors = reader.communicate(timeout=PATIENCE_S)
            assert os.strerror(errno.EIO).encode() in errors
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.read_bytes()
        fails.unlink()

        def content() -> bytes:
            with suppress(OSError):  # the next server begins after a pause
                return file.read_bytes()
            return b""

        assert wait_for(content, "the file's bytes") == image.read_bytes()


def test_a_mount_that_goes_away_ends_a_supervisor_whose_servers_fail(tmp_path: Path, image: Path) -> None:
    with flat_mount(tmp_path / "fuse", [image]) as mount:
        assert (mount.target / "layers/0").exists()  # the first server has begun
        Path(f"{mount.target}.fails").touch()
        mount.kill_server()
    assert mount.process.returncode == 0


def test_a_mount_that_goes_away_ends_supervisor_and_server(tmp_path: Path, image: Path) -> None:
    with flat_mount(tmp_path / "fuse", [image]) as mount:
        pids = mount.server_pids()
    assert mount.process.returncode == 0
    assert not Path(f"/proc/{pids[0]}").exists()


@pytest.mark.parametrize("kind", ["flat", "fuse"])
def test_a_server_that_nobody_is_to_adopt_ends_with_its_supervisor(
    tmp_path: Path, image: Path, kind: str
) -> None:
    """Else each would fork the next for ever, since there is no program to execute."""
    target = tmp_path / "fuse"
    mounted = flat_mount(target, [image]) if kind == "flat" else image_mount(target, kind, tmp_path)
    with mounted as mount:
        mount.ends_with = -signal.SIGKILL
        [server] = mount.server_pids()
        with all_ended(server):
            mount.process.kill()
        assert mount.server_pids() == [server]
