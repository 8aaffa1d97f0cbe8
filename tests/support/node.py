"""A node as users have it: mount server, snapshotter and containerd, each a process of its own.

The test plays systemd: what it kills it starts again, and, where the node is ``supervised``, it keeps the
descriptors of the services meanwhile. The mount server's supervisor looks after its server itself.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cafs.control_socket.blocking import BlockingClient
from tests.support.containerd import Containerd, CriSetup
from tests.support.mounts import ROOT, mounts_below
from tests.support.notify import started
from tests.support.patience import PATIENCE_S
from tests.support.processes import all_ended
from tests.support.program import Outcome, cafs_command, run_cafs
from tests.support.snapshotter import RunningSnapshotter
from tests.support.systemd import FakeSystemd

CAFS = "cafs"


@dataclass
class MountServer:
    """``cafs mountd`` with a run directory and a cache of its own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    options: tuple[str, ...] = ()
    systemd: FakeSystemd | None = None
    """Who keeps its session while it is restarted."""
    code: Path = ROOT
    """The folder that CAFS is imported from; another one than the tests' only under systemd."""

    @property
    def run(self) -> Path:
        """Its run directory."""
        return self.folder / "run" / "mountd"

    @property
    def settings(self) -> list[str]:
        """For every ``cafs`` command of this node."""
        return [f"--set=cache_dir={self.folder / 'cache'}", f"--set=run_dir={self.run.parent}"]

    @property
    def log(self) -> str:
        """What it has logged, over all its lives."""
        return (self.folder / "mountd.log").read_text()

    def start(self) -> MountServer:
        """Start it and wait until it says that it is ready."""
        command, log = cafs_command("mountd", *self.settings, *self.options), self.folder / "mountd.log"
        if self.systemd is None:
            self.process = started(command, log, self.folder / "mountd.notify")
        else:
            self.process = self.systemd.started(command, log, self.code)
        return self

    def client(self) -> BlockingClient:
        """A client of its control socket."""
        return BlockingClient(self.run / "mountd.sock", away_patience_s=PATIENCE_S)

    def pid(self, which: str) -> int:
        """Of its ``server`` or its ``supervisor``, as they are now."""
        return int((self.run / f"{which}.pid").read_text())

    def layers(self) -> list[dict[str, Any]]:
        """What it shows."""
        return self.client().layers()

    def wait_until_empty(self) -> None:
        """The kernel tells the server a moment after the last user of a removed layer has left."""
        deadline = time.monotonic() + PATIENCE_S
        while left := self.layers():
            assert time.monotonic() < deadline, (left, self.log[-3000:])

    def kill(self, which: str) -> None:
        """``kill -9`` of its ``server`` or ``supervisor``; returns when another process does its work."""
        with self.killed(which):
            pass

    @contextmanager
    def killed(self, which: str) -> Iterator[None]:
        """The same, but that other process is waited for at the end only."""
        killed = self.pid(which)
        os.kill(killed, signal.SIGKILL)
        yield
        # The socket's listener outlives them: a request waits for whoever comes next.
        while self.client().status()[f"{which}_pid"] == killed:
            pass

    def leave(self) -> None:
        """SIGTERM from systemd, which then waits for all its processes: the session is left to the next."""
        with all_ended(self.pid("server"), self.pid("supervisor")):
            os.kill(self.pid("supervisor"), signal.SIGTERM)
        self.reap()

    def kill_all(self) -> None:
        """``kill -9`` of all its processes at once: none sees the end of another."""
        server, supervisor = self.pid("server"), self.pid("supervisor")
        with all_ended(server, supervisor):
            os.kill(supervisor, signal.SIGSTOP)
            os.kill(server, signal.SIGKILL)
            os.kill(supervisor, signal.SIGKILL)
        self.reap()

    def stop(self) -> None:
        """End it and its mount."""
        run_cafs("mountd", "--stop", *self.settings)
        self.reap()

    def reap(self) -> None:
        """After its end."""
        if self.process is not None:
            self.process.wait(PATIENCE_S)
            self.process = None

    def clean_up(self) -> None:
        """After a test that did not stop it. Both are halted first: each would start the other anew."""
        for number, name in itertools.product((signal.SIGSTOP, signal.SIGKILL), ("supervisor", "server")):
            try:
                os.kill(self.pid(name), number)
            except (OSError, ValueError):
                continue
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        for point in reversed(mounts_below(self.folder)):
            subprocess.run(["umount", "-l", point], check=False)


@dataclass
class Node:
    """All of it below one folder with a short name."""

    folder: Path
    cri: CriSetup | None = None
    supervised: bool = False
    """Whether descriptors of mount server and snapshotter outlive them, as under systemd."""
    mountd: MountServer = field(init=False)
    snapshotter: RunningSnapshotter = field(init=False)
    containerd: Containerd = field(init=False)

    def __post_init__(self) -> None:
        self.mountd = MountServer(self.folder)
        self.snapshotter = RunningSnapshotter(self.folder)
        if self.supervised:
            self.mountd.systemd = FakeSystemd(self.folder / "mountd.notify")
            self.snapshotter.systemd = FakeSystemd(self.folder / "snapshotter.notify")
        namespace = "k8s.io" if self.cri else "default"
        proxies = {CAFS: self.snapshotter.address}
        self.containerd = Containerd(self.folder / "c", proxies, self.cri, namespace)

    def start(self) -> Node:
        """Start everything, in the order in which it is needed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mountd.start()
        self.snapshotter.start()
        self.containerd.start()
        return self

    def pull(self, reference: str, *options: str, code: int = 0, **more: Any) -> Outcome:
        """``cafs pull`` into this node."""
        where = ("--address", str(self.containerd.address), "--namespace", self.containerd.namespace)
        return run_cafs("pull", reference, *where, *self.mountd.settings, *options, code=code, **more)

    def stop(self) -> None:
        """End everything in order. Nothing may be left: no mount, no layer, no process."""
        self.containerd.stop()
        assert self.snapshotter.stop() == 0, self.snapshotter.log
        self.mountd.stop()

    def clean_up(self) -> None:
        """After the test, however it ended."""
        self.containerd.clean_up()
        self.snapshotter.clean_up()
        self.mountd.clean_up()
        for service in (self.snapshotter, self.mountd):
            if service.systemd is not None:
                service.systemd.close()

    def restart_mountd(self) -> None:
        """As systemd does it: SIGTERM, and the next one."""
        self.mountd.leave()
        self.mountd.start()

    def restart_snapshotter(self) -> None:
        """``kill -9``, and the next one."""
        self.snapshotter.kill()
        self.snapshotter.start()

    def restart_containerd(self) -> None:
        """``kill -9``, and the next one."""
        self.containerd.kill()
        self.containerd.start()

    def lose_power(self) -> None:
        """What a reboot leaves: no process, no mount, nothing in /run."""
        self.containerd.end_containers()
        self.containerd.kill()
        self.snapshotter.kill()
        run_cafs("mountd", "--stop", "--force", *self.mountd.settings)
        self.mountd.reap()
        for point in reversed(mounts_below(self.folder)):
            subprocess.run(["umount", "-l", point], check=True)
        for folder in (self.mountd.run.parent, self.containerd.state, self.containerd.folder / "runc"):
            shutil.rmtree(folder)

    def remove_everything(self, containers: Sequence[str]) -> None:
        """Containers and images; then nothing may be left of their layers, anywhere."""
        self.containerd.remove(*containers)
        self._wait_until_containerd_asks_the_snapshotter()
        images = self.containerd.ctr("image", "ls", "-q").split()
        self.containerd.ctr("image", "rm", "--sync", *images)
        told = f"{self.snapshotter.log[-3000:]}\n{self.containerd.log_path.read_text()[-3000:]}"
        assert self.lazy_mounts() == [], told
        self.mountd.wait_until_empty()
        root = self.snapshotter.root
        assert [path.name for path in root.iterdir() if path.name.isdecimal()] == []
        assert list((root / "m").iterdir()) == list((root / "d").iterdir()) == []
        assert self.containerd.ctr("content", "ls", "-q") == ""
        loops = subprocess.run(
            ["losetup", "--list", "--noheadings"], capture_output=True, text=True, check=True
        )
        assert str(self.folder) not in loops.stdout

    def _wait_until_containerd_asks_the_snapshotter(self) -> None:
        """For a second or longer after a restart it may not, and garbage that it then finds stays."""
        ask = self.containerd.ctr_command("snapshots", "--snapshotter", CAFS, "ls")
        give_up = time.monotonic() + PATIENCE_S
        while (done := subprocess.run(ask, capture_output=True, text=True, check=False)).returncode:
            assert time.monotonic() < give_up, done.stderr

    def lazy_mounts(self) -> list[str]:
        """Where kernel EROFS shows layers."""
        return mounts_below(self.snapshotter.root / "m")
