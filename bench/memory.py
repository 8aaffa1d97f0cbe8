"""How much memory a program and its children hold: samples /proc while it runs."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from demo.process import DemoError

SAMPLE_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Footprint:
    """One run of a program."""

    seconds: float
    peak_bytes: int
    """Largest sum of the resident sets of the program and its descendants; files mapped are counted."""


def run_watched(command: Sequence[str], env: Mapping[str, str]) -> Footprint:
    """Run to the end, watching.

    Raises:
        DemoError: it failed.
    """
    began = perf_counter()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    ended = threading.Event()
    peaks = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, ended, peaks))
    watcher.start()
    _, said = process.communicate()
    seconds = perf_counter() - began
    ended.set()
    watcher.join()
    if process.returncode:
        raise DemoError(f"{' '.join(command)} failed: {said.decode(errors='replace').strip()[-500:]}")
    return Footprint(seconds, peaks[0])


def _watch(pid: int, ended: threading.Event, peaks: list[int]) -> None:
    while not ended.wait(SAMPLE_EVERY_S):
        peaks[0] = max(peaks[0], sum(resident_bytes(one) for one in _family(pid)))


def _family(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                waiting += [int(word) for word in children.read_text().split()]
    return found


def resident_bytes(pid: int, kind: str = "VmRSS") -> int:
    """Resident memory of one process, all of it or of one kind (``RssAnon``: its own; ``VmHWM``: the most
    that it ever had); 0 when it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) * 1024
    return 0
