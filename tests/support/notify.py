"""Starts a service as systemd does: it is there when it has said so on NOTIFY_SOCKET."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.mounts import ROOT
from tests.support.patience import PATIENCE_S


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
        ready.setblocking(False)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(notify), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        if not _says_that_it_is_ready(process.pid, ready):
            process.kill()
            process.wait()
            raise AssertionError(f"{command} is not ready:\n{log.read_text()}")
    return process


def _says_that_it_is_ready(pid: int, ready: socket.socket) -> bool:
    """Or it ends before, or says nothing for too long."""
    give_up, end = time.monotonic() + PATIENCE_S, os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as events:
            events.register(ready, selectors.EVENT_READ)
            events.register(end, selectors.EVENT_READ)
            while events.select(max(0.0, give_up - time.monotonic())):
                if b"READY=1" in ready.recv(4096):
                    return True
    except BlockingIOError:
        pass  # it ended, and had nothing more to say
    finally:
        os.close(end)
    return False
