"""Processes that read a tree over and over and compare every byte, while a test does its worst."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import ROOT

READERS = 4


@contextmanager
def reading(root: Path, expected: Mapping[str, str], directory: Path) -> Iterator[Callable[[int], None]]:
    """Processes that compare every byte, and a call that waits until they have read so many more files."""
    listed = directory / "sums.json"
    listed.write_text(json.dumps(dict(expected)))
    told_read, told_write = os.pipe()
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.reader", str(root), str(listed), str(seed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=told_write,
        )
        for seed in range(READERS)
    ]
    os.close(told_write)

    def wait_for(files: int) -> None:
        while files > 0:
            said = os.read(told_read, files)
            assert said, "all readers ended"
            files -= len(said)

    try:
        yield wait_for
    finally:
        os.set_blocking(told_read, True)
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.close()
        while os.read(told_read, 4096):
            pass
        os.close(told_read)
        statuses = [reader.wait(60) for reader in readers]
    assert statuses == [0] * READERS
