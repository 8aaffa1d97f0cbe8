"""Where a case works: a directory on the cache's disk, a number of rounds, and a voice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.artifact import Artifact, read_artifact
from demo.cafs_command import CafsHome
from demo.cold import drop_caches
from demo.process import run


@dataclass(frozen=True, slots=True)
class Place:
    """Given to each case; ``path`` is empty at its beginning and removed at its end."""

    path: Path
    rounds: int
    console: Console

    def say(self, text: str) -> None:
        self.console.print(f"  [dim]·[/] {text}", highlight=False)

    def home(self, name: str = "home") -> CafsHome:
        """A ``cafs`` with a cache of its own."""
        return CafsHome(self.path / name)

    def fresh(self, name: str) -> Path:
        """A path that is not there (any more)."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return path

    def convert(self, source: str, name: str, options: Sequence[str] = ()) -> tuple[str, Artifact]:
        """Convert into an OCI layout of this place; returns its name as a source, and what was made."""
        layout = self.fresh(name)
        self.home().call("convert", *options, source, f"oci:{layout}:bench")
        return f"oci:{layout}:bench", read_artifact(layout)

    def filled(self, source: str, name: str, driver: str) -> CafsHome:
        """A ``cafs`` whose chunk store holds all of ``source``: everything was read through a mount once."""
        home = self.home(name)
        with home.mounted(
            source, self.path / f"{name}-fill", ["--driver", driver, "--prefetch", "all"]
        ) as root:
            read_everything(root)
        drop_caches()
        return home


def read_everything(root: Path) -> None:
    """All bytes and metadata, as ``tar`` reads them. A pipe, for GNU tar does not read for /dev/null."""
    run(["sh", "-c", 'tar -C "$0" -cf - . | cat >/dev/null', root])


def walk(root: Path) -> None:
    """``find -ls``: every directory, every inode."""
    run(["sh", "-c", 'find "$0" -ls >/dev/null', root])
