"""Drives the ``cafs`` command line in a home of its own: a cache, a run directory, mounts that end."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.process import DemoError, run

_SERVER_S = 20.0


def cafs_program() -> list[str]:
    """The ``cafs`` of the environment this Python belongs to, or the checkout's own."""
    beside = Path(sys.executable).with_name("cafs")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "cafs"]


@dataclass(frozen=True, slots=True)
class CafsHome:
    """One installation's worth of state below ``place``; ``enter`` are words before each command."""

    place: Path
    enter: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    program: tuple[str, ...] = field(default_factory=lambda: tuple(cafs_program()))
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further ones, by name."""

    @property
    def env(self) -> dict[str, str]:
        """Environment of every command."""
        checkout = str(Path(__file__).resolve().parent.parent)
        # An installed program has its bytecode; a checkout writes it at its first run if it may.
        inherited = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return inherited | {
            "CAFS_CACHE_DIR": str(self.place / "cache"),
            "CAFS_RUN_DIR": str(self.place / "run"),
            "CAFS_INSECURE_REGISTRIES": ",".join(self.insecure),
            **{f"CAFS_{name.upper()}": value for name, value in self.settings.items()},
            "PYTHONPATH": os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH")))),
        }

    def command(self, *words: str | Path) -> list[str]:
        """``cafs`` with ``words``, ready to run."""
        return [*self.enter, *self.program, *(str(word) for word in words)]

    def call(self, *words: str | Path, timeout_s: float = 600) -> str:
        """Run ``cafs`` to its end."""
        return run(self.command(*words), env=self.env, timeout_s=timeout_s)

    def clear(self) -> None:
        """Forget every chunk and index."""
        shutil.rmtree(self.place / "cache", ignore_errors=True)

    @contextmanager
    def mounted(self, source: str, target: Path, options: Sequence[str] = ()) -> Iterator[Path]:
        """Mount while the context lasts."""
        target.mkdir(parents=True, exist_ok=True)
        self.call("mount", *options, source, target, timeout_s=120)
        try:
            yield target
        finally:
            self.call("umount", target, timeout_s=60)

    def await_server(self) -> None:
        """Wait until the one mount that is there reads data; names it shows some 0.3 s before."""
        until = time.monotonic() + _SERVER_S
        while True:
            try:
                self.stats()
            except DemoError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return

    def stats(self) -> dict[str, Any]:
        """Counters of the one mount that is there, as its server wrote them last."""
        for path in (self.place / "run").glob("*/stats.json"):
            with suppress(ValueError):
                document: dict[str, Any] = json.loads(path.read_text())
                return document
        raise DemoError(f"the mount left no stats.json below {self.place / 'run'}")
