"""One user with a folder, caches, a mount point and images of their own, for tests of what a user meets."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from cafs.core.settings import Settings
from cafs.oci.descriptor import Descriptor
from cafs.oci.layout import LayoutRepository
from cafs.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from cafs.oci.repository import Repository
from tests.support.mounts import forget_pages, mounts_below
from tests.support.oci import manifest_bytes, push_bytes
from tests.support.program import Outcome, run_cafs

QUICK = ("read_deadline_s=2", "stall_timeout_s=0.5", "connect_timeout_s=0.5", "retries=1")
"""Settings that make a failing registry fail within seconds."""
DRIVERS = ("erofs", "fuse")


class User:
    """Runs ``cafs`` with state below ``path`` and looks at what it left there."""

    def __init__(self, path: Path, settings: Sequence[str] = ()) -> None:
        self.path = path
        self.cache = path / "cache"
        self.run_dir = path / "run"
        self.target = path / "mnt"
        self.target.mkdir(parents=True)
        self.layout = path / "layout"
        self.settings = settings

    @property
    def image(self) -> str:
        """The image in the user's layout."""
        return f"oci:{self.layout}:v1"

    @property
    def flags(self) -> list[str]:
        """For commands that the test starts itself."""
        settings = [f"cache_dir={self.cache}", f"run_dir={self.run_dir}", *self.settings]
        return [f"--set={setting}" for setting in settings]

    def cafs(
        self,
        *arguments: str | Path,
        code: int = 0,
        says: str = "",
        warns: str | None = None,
        timeout_s: float = 60,
    ) -> Outcome:
        """Run ``cafs``; a failure must be told in one line that ``says`` what is wrong."""
        done = run_cafs(*arguments, *self.flags, code=code, warns=warns, timeout_s=timeout_s)
        if code:
            told = [line for line in done.err.splitlines() if re.match(r"cafs: (?!WARNING)", line)]
            assert len(told) == 1, done.err
            assert re.search(says, told[0]), told[0]
            assert "internal error" not in told[0]
        return done

    @contextmanager
    def mounted(self, source: str, *options: str, warns: str | None = None) -> Iterator[Path]:
        """``source`` at the mount point; afterwards nothing of the mount is left."""
        self.cafs("mount", source, self.target, "--prefetch=none", *options, warns=warns)
        try:
            yield self.target
        finally:
            self.cafs("umount", self.target)
        self.assert_nothing_mounted()

    def log(self) -> str:
        """What the running mount has logged."""
        (found,) = self.run_dir.glob("*/log")
        return found.read_text()

    def forget_pages(self) -> None:
        """Drop the mount's data from the page cache: the next reads come to the server."""
        forget_pages([*self.run_dir.glob("*/fuse/layers/*"), *self.target.rglob("*")])

    def assert_nothing_mounted(self) -> None:
        """No mount, no process state, an empty mount point."""
        assert mounts_below(self.target) + mounts_below(self.run_dir) == []
        assert list(self.run_dir.glob("*")) == []
        assert list(self.target.iterdir()) == []

    def assert_no_work_left(self) -> None:
        """No temporary file of a conversion or of a download, wherever they are made."""
        assert list(self.cache.glob("convert/*")) == []
        assert [path for path in self.path.rglob(".new-*") if path.is_file()] == []
        assert list(self.path.rglob("*.part")) == []

    def clean_up(self) -> None:
        """After a failed test: detach what is left."""
        for point in reversed(mounts_below(self.path)):
            subprocess.run(["umount", "-l", point], check=False)


def flip_bit(path: Path, at: int) -> None:
    """Turn over one bit of a file, in a new file: others may share the old one by links."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    replace(path, bytes(content))


def replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of another."""
    path.unlink()
    path.write_bytes(content)


def blob_path(layout: Path, digest: str) -> Path:
    """Where an OCI layout keeps a blob."""
    return layout / "blobs" / "sha256" / digest.partition(":")[2]


def push_layers_as(
    repository: Repository, layers: Sequence[bytes], diff_ids: Sequence[str], tag: str = "v1"
) -> Descriptor:
    """Push an image of stored layers, with the diffIDs that its config is to claim."""

    async def push() -> Descriptor:
        rootfs = {"type": "layers", "diff_ids": list(diff_ids)}
        config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).encode()
        described = await push_bytes(repository, config, OCI_CONFIG)
        blobs = [await push_bytes(repository, layer, OCI_LAYER) for layer in layers]
        image = await repository.push_manifest(manifest_bytes(described, blobs), OCI_MANIFEST, tag)
        await repository.aclose()
        return image

    return trio.run(push)


def layout_repository(user: User) -> LayoutRepository:
    """The user's layout, to push into."""
    return LayoutRepository(user.layout)


def plain_http(user: User, host: str) -> Settings:
    """Settings with which a test itself speaks to ``host``."""
    return Settings(cache_dir=user.cache, run_dir=user.run_dir, insecure_registries=(host,))
