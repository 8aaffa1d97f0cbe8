"""``cafs scheduler`` as processes of their own that pass hosts on to a manager."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.process import DemoError, running

_START_S, _LOOK_S = 60.0, 0.05


@dataclass(frozen=True, slots=True)
class RunningScheduler:
    """One that passes on."""

    pid: int
    address: str
    """HOST:PORT."""


@contextmanager
def open_schedulers(
    folder: Path, manager: str, count: int, inside: Sequence[str] = ()
) -> Iterator[list[RunningScheduler]]:
    """Have so many, attached to the manager, until the context ends; ``inside``: words before commands."""
    with ExitStack() as stack:
        yield [_open(stack, folder / f"scheduler{number}", manager, inside) for number in range(count)]


def _open(stack: ExitStack, folder: Path, manager: str, inside: Sequence[str]) -> RunningScheduler:
    folder.mkdir()
    command = [*inside, sys.executable, "-m", "cafs", "scheduler", "--listen=127.0.0.1:0"]
    command += [f"--set=managers={manager}", f"--set=cache_dir={folder}"]
    log = folder / "scheduler.log"
    process = stack.enter_context(running(command, log))
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up and process.poll() is None:
        said = log.read_text()
        where = re.search(r"scheduling on (\S+)", said)
        if where and "by way of this scheduler" in said:
            return RunningScheduler(process.pid, where[1])
        time.sleep(_LOOK_S)
    raise DemoError(f"a scheduler does not pass hosts on:\n{log.read_text()}")
