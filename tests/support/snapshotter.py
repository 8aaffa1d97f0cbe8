"""``cafs snapshotter`` as a process of a test, with its folder and a client."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cafs.fuse.syscalls import MountFlag, mount, unmount
from tests.support.mounts import ROOT, mounts_below
from tests.support.notify import started
from tests.support.patience import PATIENCE_S
from tests.support.program import cafs_command
from tests.support.snapshots_client import SnapshotsClient
from tests.support.systemd import FakeSystemd

_BIND, _RECURSIVE, _REMOUNT = 4096, 16384, 32
_FLAGS = {"ro": int(MountFlag.RDONLY), "rw": 0, "rbind": _BIND | _RECURSIVE}


@dataclass
class RunningSnapshotter:
    """A snapshotter that a test has for itself. Folder names must be short: unix sockets have 107 bytes."""

    folder: Path
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    clients: list[SnapshotsClient] = field(default_factory=list)
    systemd: FakeSystemd | None = None
    """Who keeps its socket while it is restarted."""
    code: Path = ROOT
    """The folder that CAFS is imported from; another one than the tests' only under systemd."""

    @property
    def address(self) -> Path:
        return self.folder / "s.sock"

    @property
    def root(self) -> Path:
        return self.folder / "s"

    @property
    def run(self) -> Path:
        """Where it keeps processes ready for pulls; the run directory of the whole node."""
        return self.folder / "run"

    @property
    def mountd(self) -> Path:
        """Where it looks for a mount server."""
        return self.run / "mountd" / "mountd.sock"

    @property
    def log(self) -> str:
        """What it has logged, over all its lives."""
        return (self.folder / "snapshotter.log").read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        places = ("--address", self.address, "--root", self.root, "--mountd", self.mountd)
        return cafs_command("snapshotter", f"--set=run_dir={self.run}", *places, *self.options)

    def start(self) -> RunningSnapshotter:
        """Start it and wait until it says that it is ready."""
        log, command = self.folder / "snapshotter.log", self.command()
        if self.systemd is None:
            self.process = started(command, log, self.folder / "notify")
        else:
            self.process = self.systemd.started(command, log, self.code)
        return self

    def client(self) -> SnapshotsClient:
        self.clients.append(SnapshotsClient(self.address))
        return self.clients[-1]

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process = None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def clean_up(self) -> None:
        """End it, and unmount what it leaves for containers."""
        for client in self.clients:
            client.close()
        if self.process is not None:
            self.kill()
        for point in reversed(mounts_below(self.root)):
            subprocess.run(["umount", "-l", point], check=False)


@contextmanager
def running_snapshotter(folder: Path, *options: str) -> Iterator[RunningSnapshotter]:
    """One that runs while the context lasts, and must end well."""
    running = RunningSnapshotter(folder, options)
    try:
        yield running.start()
        if running.process is not None:
            assert running.stop() == 0, running.log
        assert "Traceback" not in running.log, running.log
    finally:
        running.clean_up()


@contextmanager
def mounted(mounts: Sequence[Any], target: Path) -> Iterator[Path]:
    """Mount what a snapshotter says, as containerd does (core/mount/mount_linux.go)."""
    target.mkdir(exist_ok=True)
    for one in mounts:
        mount_as_containerd(one, target)
    try:
        yield target
    finally:
        for _one in mounts:
            unmount(target)
        target.rmdir()


def mount_as_containerd(one: Any, target: Path) -> None:
    """One mount. Options that would not fit a page become relative to the directory they have in common."""
    flags, data = 0, []
    for option in one.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        else:
            data.append(option)
    directory = "/"
    if one.type == "overlay" and sum(map(len, data)) >= os.sysconf("SC_PAGE_SIZE") - 512:
        (lower,) = (option for option in data if option.startswith("lowerdir="))
        paths = lower.removeprefix("lowerdir=").split(":")
        directory = os.path.commonpath(paths)
        data.remove(lower)
        data.append("lowerdir=" + ":".join(os.path.relpath(path, directory) for path in paths))
    with chdir(directory):
        mount(one.source, target, one.type, MountFlag(flags), ",".join(data))
    if flags & _BIND and flags & MountFlag.RDONLY:
        mount("", target, "", MountFlag(flags | _REMOUNT), "")
