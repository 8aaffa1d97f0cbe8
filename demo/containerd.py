"""A containerd with root, state, sockets and configuration below one directory, ended by its own pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from demo.notify import serving
from demo.process import run

_CONFIG = """\
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{place}/c.sock"
[ttrpc]
  address = "{place}/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place}/opt"
"""
_PROXY = """\
[proxy_plugins."{name}"]
  type = "snapshot"
  address = "{address}"
"""


@dataclass(frozen=True, slots=True)
class Containerd:
    """A daemon that answers."""

    place: Path
    enter: tuple[str, ...] = ()
    """Words before each command, such as ``nsenter ...``."""

    @property
    def address(self) -> Path:
        return self.place / "c.sock"

    def command(self, *words: str | Path) -> list[str]:
        """``ctr`` with ``words``, ready to run."""
        return [*self.enter, "ctr", "--address", str(self.address), *(str(word) for word in words)]

    def call(self, *words: str | Path, timeout_s: float = 300) -> str:
        """Run ``ctr`` to its end."""
        return run(self.command(*words), timeout_s=timeout_s)

    def run_command(
        self, snapshotter: str, options: Sequence[str], image: str, name: str, command: Sequence[str] = ()
    ) -> list[str]:
        """``ctr run`` with the places that belong to this daemon."""
        own = ["--runc-root", str(self.place / "runc"), "--fifo-dir", str(self.place / "fifo")]
        words = ["run", *own, "--snapshotter", snapshotter, *options, image, name, *command]
        return self.command(*words)

    def shims(self) -> list[int]:
        """Processes that hold containers of this daemon."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"containerd-shim" in words[0] and os.fsencode(self.address) in words:
                        found.append(int(entry.name))
        return found


@contextmanager
def serve_containerd(
    place: Path, enter: Sequence[str] = (), proxies: Mapping[str, Path] | None = None
) -> Iterator[Containerd]:
    """Run containerd below ``place`` until the context ends; then nothing of it is left but its log.

    Args:
        place: Made if it is not there. Its path must be short: unix sockets have 107 bytes.
        enter: Words before each command.
        proxies: Snapshotters that are programs of their own: name and socket.
    """
    place.mkdir(parents=True, exist_ok=True)
    (place / "fifo").mkdir(exist_ok=True)
    text = _CONFIG.format(place=place)
    text += "".join(_PROXY.format(name=name, address=path) for name, path in (proxies or {}).items())
    (place / "config.toml").write_text(text)
    daemon = Containerd(place, tuple(enter))
    try:
        command = [*enter, "containerd", "--config", str(place / "config.toml")]
        with serving(command, place.with_name(f"{place.name}.log")):
            yield daemon
    finally:
        _clear_away(daemon)


def _clear_away(daemon: Containerd) -> None:
    """What a daemon leaves: containers, their shims, mounts, directories."""
    for path in daemon.place.glob("state/io.containerd.runtime.v2.task/*/*/init.pid"):
        _kill(int(path.read_text()))
    for pid in daemon.shims():
        _kill(pid)
    unmount_below(daemon.place)
    shutil.rmtree(daemon.place, ignore_errors=True)


def unmount_below(place: Path) -> None:
    """Every mount below ``place``, the newest first; those in use as soon as they are not."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n")[:-1]
    points = [line.split(" ")[4] for line in lines]
    for point in reversed([point for point in points if point.startswith(f"{place}/")]):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
