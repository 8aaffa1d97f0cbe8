"""Finds what a test left behind: processes and mounts.

Every process that a test starts inherits a variable of the environment that names this run, also a
daemon that has left its parent; so /proc tells them apart from everybody else's. Mounts are ours when
they lie below the folder that this run keeps all its temporary files in.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "CAFS_TEST_RUN"
_GRACE_MS = 30_000
_MNT_DETACH = 2


@dataclass(frozen=True)
class Things:
    """Processes (by pid) and mount points, at one moment."""

    processes: dict[int, str]
    mounts: tuple[str, ...]


def look_around() -> Things:
    """What there is now of ours."""
    return Things(_processes(), _mounts())


def _processes() -> dict[int, str]:
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in Path(entry.path, "environ").read_bytes():
                command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode(errors="replace").strip()
        except OSError:
            continue  # it ended, or is not ours to look into
    return found


def _mounts() -> tuple[str, ...]:
    points = mount_points(Path("/proc/self/mountinfo").read_bytes())
    return tuple(point for point in points if point.startswith(tempfile.gettempdir() + "/"))


def mount_points(mountinfo: bytes) -> Iterator[str]:
    """Names may hold any byte, of other runs' mounts too: blanks, line ends and backslashes are in octal."""
    for line in mountinfo.split(b"\n")[:-1]:
        point = line.split(b" ")[4]
        yield os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), point))


def leftovers(before: Things, long_lived: set[int], grace_ms: int = _GRACE_MS) -> list[str]:
    """What is there now and was not before; each is ended or unmounted, so that it is told only once.

    Args:
        before: From ``look_around`` before the test.
        long_lived: Processes that fixtures of the whole session keep.
        grace_ms: How long a process may take to end of itself.
    """
    now = _processes()
    told = []
    for pid, command in now.items():
        if pid not in before.processes and pid not in long_lived and not _ends_soon(pid, grace_ms):
            told.append(f"process {pid}: {command}")
            os.kill(pid, signal.SIGKILL)
    known = list(before.mounts)
    for point in _mounts():
        if point in known:
            known.remove(point)
            continue
        told.append(f"mount {point}")
        ctypes.CDLL(None).umount2(os.fsencode(point), _MNT_DETACH)
    return told


def _ends_soon(pid: int, grace_ms: int) -> bool:
    """A server whose mount is gone may need a moment to end. Zombies have ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(grace_ms))
    finally:
        os.close(descriptor)
