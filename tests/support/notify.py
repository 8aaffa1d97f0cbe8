"""Starts a service as systemd does: it is there when it has said so on NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.mounts import ROOT

_START_S = 30


def started(
    command: Sequence[str], log: Path, notify: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a service and wait until it is ready.

    Args:
        command: Its argument list.
        log: What it prints is appended here.
        notify: A path for the socket, short as those of all unix sockets.
        env: Variables on top of the environment.
    """
    notify.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("ab") as output:
        ready.bind(str(notify))
        ready.settimeout(_START_S)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(notify), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            while b"READY=1" not in ready.recv(4096):
                pass
        except TimeoutError:
            process.kill()
            process.wait(10)
            raise AssertionError(f"{command} is not ready within {_START_S} s:\n{log.read_text()}") from None
    return process
