"""Mounting in tests: a supervised mount of plain files, and proof that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from cafs.fuse.erofs_mount import mount_image_file, unmount_erofs
from cafs.fuse.mountinfo import read_mounts
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def mounts_below(directory: Path) -> list[str]:
    """Mount points below ``directory``, outermost first."""
    return [mount.point for mount in read_mounts() if Path(mount.point).is_relative_to(directory)]


def forget_pages(paths: Iterable[Path]) -> None:
    """Drop what these files hold from the page cache, of which the rest of the machine keeps its part."""
    for path in paths:
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def unmounted_after(directory: Path) -> Iterator[None]:
    """Whatever a failed test left mounted below ``directory`` is detached."""
    try:
        yield
    finally:
        for point in reversed(mounts_below(directory)):
            subprocess.run(["umount", "-l", point], check=False)


class ServedMount:
    """A running ``flat_server`` or ``image_server``."""

    def __init__(self, target: Path, process: subprocess.Popen[str]) -> None:
        self.target = target
        self.process = process
        self.ends_with = 0
        """What the process's exit status has to be once all is unmounted."""
        self._killed = 0

    def server_pids(self) -> list[int]:
        return [int(line) for line in Path(f"{self.target}.pids").read_text().split()]

    def kill_server(self) -> None:
        """Kill the server, once the one that was killed before it has a successor."""
        deadline = time.monotonic() + 30
        while len(self.server_pids()) <= self._killed:
            assert time.monotonic() < deadline, "a killed server has no successor"
            os.sched_yield()
        self._killed = len(self.server_pids())
        os.kill(self.server_pids()[-1], signal.SIGKILL)


def flat_mount(
    target: Path, files: Sequence[Path], *, resend: bool = True
) -> AbstractContextManager[ServedMount]:
    """Serve ``files`` as virtual images at ``target`` from processes of their own."""
    return _served(target, "flat_server", ["resend" if resend else "no-resend", *map(str, files)])


def image_mount(target: Path, kind: str, directory: Path) -> AbstractContextManager[ServedMount]:
    """Serve the layers in ``directory`` (``tests.support.layered``) at ``target``: as one file for the
    kernel's EROFS (``erofs``), or as a tree (``fuse``)."""
    return _served(target, "image_server", [kind, str(directory)])


@contextmanager
def _served(target: Path, server: str, arguments: Sequence[str]) -> Iterator[ServedMount]:
    target.mkdir()
    command = [sys.executable, "-m", f"tests.support.{server}", str(target), *arguments]
    with unmounted_after(target), subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        mount = ServedMount(target, process)
        try:
            yield mount
            # Lazily: the kernel lets go of what EROFS held a moment after its own unmount.
            subprocess.run(["umount", "-l", str(target)], check=True)
            assert process.wait(PATIENCE_S) == mount.ends_with
        finally:
            process.kill()


@contextmanager
def erofs_mount(mount: ServedMount, target: Path, name: str, *, cold: bool = False) -> Iterator[Path]:
    """The driver ``erofs`` on top: the kernel's EROFS on the file ``name`` of a flat mount."""
    target.mkdir()
    mount_image_file(mount.target / "layers" / name, target, trusted=True, cold=cold)
    try:
        yield target
    finally:
        unmount_erofs(target, lazy=False)
