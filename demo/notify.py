"""Runs a service until a context ends, and goes on when it says that it is ready, as it does to systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.process import DemoError, running

START_S = 30.0
_LOOK_S = 0.5


@contextmanager
def serving(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command``; what it says goes to ``log``.

    Raises:
        DemoError: it ended or was not ready in time.
    """
    notify = log.with_suffix(".notify")
    notify.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(notify))
        told.settimeout(_LOOK_S)
        with running(command, log, {**(env or os.environ), "NOTIFY_SOCKET": str(notify)}) as process:
            _await_ready(told, process, command, log)
            yield process
    notify.unlink(missing_ok=True)


def _await_ready(
    told: socket.socket, process: subprocess.Popen[bytes], command: Sequence[str], log: Path
) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if b"READY=1" in told.recv(4096):
                return
        except TimeoutError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()[-1:]
                words = " ".join(command[-3:])
                raise DemoError(f"{words} did not start: {' '.join(said) or 'it said nothing'}") from None
