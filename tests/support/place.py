"""An image and a place to mount it, for tests of ``cafs mount`` and ``cafs umount``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

import trio

from cafs.index.tree import INLINE_MAX_BYTES
from cafs.oci.layout import LayoutRepository
from tests.support.layered import push_layers
from tests.support.mounts import mounts_below
from tests.support.program import run_cafs
from tests.support.random_layers import RandomImage


class Place:
    """A folder with an image in an OCI layout, a mount point, and state and cache of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.target = path / "tree"
        self.target.mkdir()
        self.run_dir = path / "run"
        self.cache_dir = path / "cache"
        self.layout = path / "layout"
        self.image = RandomImage(seed=11, layers=3, entries=120)
        layers = path / "layers"
        layers.mkdir()
        self.image.write(layers)
        trio.run(push_layers, LayoutRepository(self.layout), layers)
        self.layers = layers
        self.killed: dict[str, int] = {}

    @property
    def source(self) -> str:
        return f"oci:{self.layout}:v1"

    @property
    def flags(self) -> list[str]:
        settings = {"run_dir": self.run_dir, "cache_dir": self.cache_dir}
        return [f"--set={key}={value}" for key, value in settings.items()]

    def cafs(self, *arguments: str | Path, code: int = 0) -> str:
        outcome = run_cafs(*arguments, *self.flags, code=code)
        return outcome.out + outcome.err

    def stored_files(self) -> list[Path]:
        """The regular files whose content lies in chunks."""
        return [
            self.target / os.fsdecode(name)
            for name, seen in self.image.expected().items()
            if S_ISREG(seen.mode) and (seen.size or 0) > INLINE_MAX_BYTES
        ]

    def name(self, path: Path) -> bytes:
        """The key of a path in what is expected."""
        return os.fsencode(path.relative_to(self.target))

    def state(self, name: str) -> Path:
        (found,) = self.run_dir.glob(f"*/{name}")
        return found

    def kill(self, who: str) -> int:
        """Kill the process, once the one that was killed before it has a successor."""
        deadline = time.monotonic() + 30
        while (pid := int(self.state(f"{who}.pid").read_text())) == self.killed.get(who):
            assert time.monotonic() < deadline, f"no {who} came after {pid}"
            os.sched_yield()
        os.kill(pid, signal.SIGKILL)
        self.killed[who] = pid
        return pid

    def assert_clean(self) -> None:
        assert mounts_below(self.path) == []
        assert list(self.run_dir.glob("*")) == []
        assert list(self.cache_dir.glob("mounted/*")) == []
        assert list(self.target.iterdir()) == []


@contextmanager
def mounted(place: Place, *options: str) -> Iterator[Path]:
    place.cafs("mount", place.source, place.target, *options)
    try:
        yield place.target
    finally:
        place.cafs("umount", place.target)
    place.assert_clean()
