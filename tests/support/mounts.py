"""Mounting in tests: a supervised mount of plain files, and proof that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def mounts_below(directory: Path) -> list[str]:
    """Mount points below ``directory``, outermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    return [point for point in points if Path(point).is_relative_to(directory)]


@contextmanager
def unmounted_after(directory: Path) -> Iterator[None]:
    """Whatever a failed test left mounted below ``directory`` is detached."""
    try:
        yield
    finally:
        for point in reversed(mounts_below(directory)):
            subprocess.run(["umount", "-l", point], check=False)


class FlatMount:
    """A running ``tests.support.flat_server``."""

    def __init__(self, target: Path, process: subprocess.Popen[str]) -> None:
        self.target = target
        self.process = process

    def server_pids(self) -> list[int]:
        return [int(line) for line in Path(f"{self.target}.pids").read_text().split()]

    def kill_server(self) -> None:
        os.kill(self.server_pids()[-1], signal.SIGKILL)


@contextmanager
def flat_mount(target: Path, files: Sequence[Path], *, resend: bool = True) -> Iterator[FlatMount]:
    """Serve ``files`` at ``target`` from a process of its own."""
    target.mkdir()
    command = [sys.executable, "-m", "tests.support.flat_server", str(target)]
    command += ["resend" if resend else "no-resend", *map(str, files)]
    with unmounted_after(target.parent), subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield FlatMount(target, process)
            subprocess.run(["umount", str(target)], check=True)
            assert process.wait(10) == 0
        finally:
            process.kill()
