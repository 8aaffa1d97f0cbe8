"""A node behind the link: containerd, beside it CAFS's mount server and snapshotter. Nothing on it is old.

Daemons are started anew for each cold sample, on empty directories, before the page cache is dropped: what
they run on is in memory as on a node that works, and nothing of any image is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.cafs_command import CafsHome
from demo.cold import drop_caches
from demo.containerd import Containerd, serve_containerd, unmount_below
from demo.link import Link
from demo.notify import serving
from demo.process import run
from demo.start import SERVER

CAFS, OVERLAYFS = "cafs", "overlayfs"


@dataclass(frozen=True, slots=True)
class Counted:
    """Compressed bytes of chunks."""

    fetched_bytes: int
    touched_bytes: int
    """Of those that were read."""


@dataclass(frozen=True, slots=True)
class Node:
    """Everything that runs on it."""

    containerd: Containerd
    link: Link
    home: CafsHome | None
    """Drives ``cafs``; None on a node without it."""
    snapshotter: subprocess.Popen[bytes] | None

    def reference(self, image: str) -> str:
        """The name of ``image``, repository and tag, as containerd here knows it."""
        return f"{SERVER}/{image}"

    def pull_command(self, snapshotter: str, image: str) -> list[str]:
        """The command that pulls ``image``."""
        if snapshotter == CAFS and self.home:
            own = ("--address", self.containerd.address, "--snapshotter", snapshotter)
            return self.home.command("--quiet", "pull", *own, self.reference(image))
        pull = ("image", "pull", "--plain-http", "--snapshotter", snapshotter)
        return self.containerd.command(*pull, self.reference(image))

    def counted(self) -> Counted:
        """What our mount server counted since the node began."""
        assert self.home is not None
        socket = self.home.place / "run/mountd/mountd.sock"
        ask = ["curl", "-sf", "--max-time", "10", "--unix-socket", str(socket), "http://mountd/layers"]
        layers = json.loads(run(ask))["layers"]
        return Counted(
            sum(int(layer["fetched_frame_bytes"]) for layer in layers),
            sum(int(layer["touched_frame_bytes"]) for layer in layers),
        )


@contextmanager
def cold_node(
    place: Path, link: Link, *, with_cafs: bool, settings: Mapping[str, str] | None = None
) -> Iterator[Node]:
    """A node without content, snapshots, chunks and indexes, page cache dropped, until the context ends.

    Args:
        place: Its directory; short, and empty or not there. It is removed.
        link: It stands on the client's side.
        with_cafs: Whether CAFS's services run beside containerd.
        settings: Of these; with ``managers`` among them, a peer is one of the services.
    """
    place.mkdir(parents=True, exist_ok=True)
    enter = tuple(link.on_client())
    try:
        with ExitStack() as stack:
            home = snapshotter = None
            proxies = {}
            if with_cafs:
                home = CafsHome(place / "h", enter, (SERVER,), settings=settings or {})
                proxies[CAFS] = place / "s.sock"
                snapshotter = _serve_cafs(stack, place, home, proxies[CAFS])
            containerd = stack.enter_context(serve_containerd(place / "c", enter, proxies))
            drop_caches()
            yield Node(containerd, link, home, snapshotter)
    finally:
        unmount_below(place)
        shutil.rmtree(place, ignore_errors=True)


def _serve_cafs(stack: ExitStack, place: Path, home: CafsHome, address: Path) -> subprocess.Popen[bytes]:
    if "managers" in home.settings:
        stack.enter_context(serving(home.command("peer"), place / "peer.log", home.env))
    stack.enter_context(serving(home.command("mountd"), place / "mountd.log", home.env))
    words = ("snapshotter", "--address", address, "--root", place / "s")
    return stack.enter_context(serving(home.command(*words), place / "snapshotter.log", home.env))
