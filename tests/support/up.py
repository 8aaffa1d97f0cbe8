"""``cafs up`` as a process of a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafs.up.plan import NAMES
from tests.support.mounts import unmounted_after
from tests.support.patience import PATIENCE_S
from tests.support.peers import wait_for
from tests.support.program import ROOT, Outcome, run_cafs

ANYWHERE = [f"--{option}=127.0.0.1:0" for option in ("manager", "rest", "scheduler", "seed", "peer")]
"""Free ports."""


def only(*names: str) -> list[str]:
    """Leave out all others."""
    return [f"--without={name}" for name in NAMES if name not in names]


@dataclass
class RunningUp:
    """One that was started."""

    process: subprocess.Popen[bytes]
    data: Path
    out: Path
    err: Path

    @property
    def log(self) -> str:
        """What it and its services have said."""
        return self.err.read_text()

    def cafs(self, *arguments: str | Path, **more: Any) -> Outcome:
        """A command that uses it. The tests' variables, which count more than a file, are taken away."""
        words = (*arguments, f"--config={self.data / 'node.toml'}")
        return run_cafs(*words, prefix=["env", "-u", "CAFS_CACHE_DIR", "-u", "CAFS_RUN_DIR"], **more)

    def ready(self) -> Any:
        """What it tells when all are ready."""

        def told() -> str:
            assert self.process.poll() is None, self.log
            return self.out.read_text()

        return json.loads(wait_for(told, f"ready, as {self.err} says"))

    def heard(self, words: str, times: int = 1) -> None:
        """Wait until this was said so often."""
        wait_for(lambda: self.log.count(words) >= times, f"{words!r} in {self.err}")

    def pids(self) -> dict[str, int]:
        """Of its children, by service. A seed is a peer with ``--seed``."""
        found = {}
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in path.read_text().split():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if words[1:3] == ["-m", "cafs"]:
                    found["seed" if "--seed" in words else words[3]] = int(pid)
        return found

    def everybody(self) -> list[int]:
        """All processes of it: those that have its directory on their command line, and what they forked."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and str(self.data).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def running_up(
    data: Path, *options: str, ports: Sequence[str] = ANYWHERE, folder: Path = ROOT
) -> Iterator[RunningUp]:
    """One that ends with the context, at the latest. It is started in ``folder``."""
    beside = data.parent
    out, err = beside / f"{data.name}.out", beside / f"{data.name}.err"
    program = [sys.executable, str(ROOT / "deploy/cafs")]
    command = [*program, "up", f"--data={data}", "--json", *ports, *options]
    with out.open("wb") as printed, err.open("wb") as said, unmounted_after(data):
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=printed, stderr=said, env=os.environ
        )
        try:
            yield RunningUp(process, data, out, err)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
