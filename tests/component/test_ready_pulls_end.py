"""The process that keeps pulls ready ends with the snapshotter, whatever has become of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from pathlib import Path
import cafs.cli.ready_pulls as ready
ready._CANCEL_S, ready._GRACE_S = 0.2, 0.2
pulls = ready.ReadyPulls(Path(sys.argv[1]), [])
if sys.argv[2] == "began":
    pulls.begin()
os.kill(pulls._pid, signal.SIGSTOP)
pulls.end()
print(os.path.exists(sys.argv[1]))
"""


@pytest.mark.parametrize("when", ["began", "never began"])
def test_one_that_does_not_answer_keeps_nobody_waiting(short_tmp_path: Path, when: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(short_tmp_path / "s"), when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n", "its socket is gone, too"
