"""Runs the ``cafs`` program as a user does: a process of its own, its output and its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output of ``--json``."""
        return json.loads(self.out)


def cafs_command(*arguments: str | Path) -> list[str]:
    """The argument list that runs ``cafs``, for tests that start it themselves."""
    return [sys.executable, "-m", "cafs", *map(str, arguments)]


def run_cafs(
    *arguments: str | Path,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout_s: float = PATIENCE_S,
    warns: str | None = None,
) -> Outcome:
    """Run ``cafs`` and check how it ended.

    Args:
        arguments: Of the command line.
        code: The exit code it must have.
        env: Variables on top of the environment.
        prefix: A program that runs it, such as ``link.inside``.
        timeout_s: After this long it hangs, and the test fails.
        warns: Regular expression of warnings that may appear on standard error.
    """
    done = subprocess.run(
        [*prefix, *cafs_command(*arguments)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        timeout=timeout_s,
        check=False,
    )
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    command = " ".join(map(str, arguments))
    told = f"cafs {command}\nexit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr}"
    assert "Traceback" not in outcome.err, told
    assert outcome.code == code, told
    for line in re.findall(r"^cafs: (?:WARNING|ERROR): .*$", outcome.err, re.MULTILINE):
        assert warns is not None, told
        assert re.search(warns, line), told
    return outcome
