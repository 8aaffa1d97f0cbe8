"""What one layer of an image is made by: a step changes the root filesystem, the layer is what it changed.

A step is a value: layers are kept under what its ``repr`` says (``bench.images.layers``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from demo.debian import choose_source, machine_codename, machine_sources
from demo.image import APT_ENV, clean_root, proxied
from demo.process import run


class Step(Protocol):
    """Changes ``root``, which shows all layers below; ``apt`` is a directory where downloads are kept."""

    @property
    def told(self) -> str:
        """For the image's history, and for who waits."""

    def apply(self, root: Path, apt: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class DebianBase:
    """Debian's minimal system, as ``debootstrap --variant=minbase`` makes it."""

    @property
    def told(self) -> str:
        return "debootstrap --variant=minbase"

    def apply(self, root: Path, apt: Path) -> None:
        source = choose_source(machine_sources(), machine_codename())
        cache = apt / "archives"
        cache.mkdir(parents=True, exist_ok=True)
        run(["debootstrap", "--variant=minbase", f"--cache-dir={cache}", source.suite, root, source.uri])
        clean_root(root)


@dataclass(frozen=True, slots=True)
class Packages:
    """``apt-get install`` without recommended packages."""

    names: tuple[str, ...]

    @property
    def told(self) -> str:
        return f"apt-get install {' '.join(self.names)}"

    def apply(self, root: Path, apt: Path) -> None:
        # Nothing is started while packages are installed; as in every image build.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        with _at_home_in(root, apt):
            command = ["chroot", str(root), "apt-get", "-q", "-y"]
            run([*command, "update"], env=proxied(APT_ENV))
            install = [*command, "install", "--no-install-recommends", *self.names]
            run(install, env=proxied(APT_ENV), timeout_s=1800)
        policy.unlink()
        clean_root(root)


@dataclass(frozen=True, slots=True)
class Files:
    """Files with their text; what begins with ``#!`` may be run."""

    texts: tuple[tuple[str, str], ...]

    @property
    def told(self) -> str:
        return f"COPY {' '.join(path for path, _ in self.texts)}"

    def apply(self, root: Path, apt: Path) -> None:
        for name, text in self.texts:
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if text.startswith("#!") else 0o644)


@dataclass(frozen=True, slots=True)
class Script:
    """A shell command in the root."""

    command: str

    @property
    def told(self) -> str:
        return self.command

    def apply(self, root: Path, apt: Path) -> None:
        with _at_home_in(root, apt):
            run(["chroot", str(root), "sh", "-ec", self.command], env=APT_ENV)


@contextmanager
def _at_home_in(root: Path, apt: Path) -> Iterator[None]:
    """What package scripts need: /proc, /dev, a resolver, and apt's downloads, kept outside of the image."""
    resolver = root / "etc/resolv.conf"
    had = resolver.exists()
    if not had:
        shutil.copyfile("/etc/resolv.conf", resolver)
    mounts: list[list[str | Path]] = [
        ["-t", "proc", "proc", root / "proc"],
        ["--rbind", "/dev", root / "dev"],
    ]
    for kept, inside in (("lists", "var/lib/apt/lists"), ("archives", "var/cache/apt/archives")):
        (apt / kept / "partial").mkdir(parents=True, exist_ok=True)
        mounts.append(["--bind", apt / kept, root / inside])
    done: list[Path] = []
    try:
        for words in mounts:
            run(["mount", *words])
            done.append(Path(words[-1]))
        yield
    finally:
        for path in reversed(done):
            run(["umount", "--recursive", os.fspath(path)])
        if not had:
            resolver.unlink(missing_ok=True)
