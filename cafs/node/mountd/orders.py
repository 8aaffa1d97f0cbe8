"""What ``cafs mountd --stop`` and ``--replace`` do to a mount server that runs.

They find it by the process id it wrote down, and know by the lock whether it lives. Light: no trio.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from cafs.errors import StateError
from cafs.node.mountd.keeper import clear_run_directory, load_server_code
from cafs.node.mountd.state import RunDirectory
from cafs.node.mountd.take_down import take_down

END_TIMEOUT_S = 20.0
"""A server first stores what it had fetched."""
REPLACE_TIMEOUT_S = 30.0
_BETWEEN_S = 0.02
"""Before looking again, while one process is taking another's place."""


def stop(directory: RunDirectory, *, force: bool) -> bool:
    """End the mount server, and wait until nothing of it is left.

    Args:
        directory: Its run directory.
        force: Also while layers are mounted; whoever reads them gets errors from then on.

    Returns:
        False when there was nothing to end.

    Raises:
        StateError: layers are in use, or it did not end.
    """
    if not directory.path.is_dir():
        return False
    take_down(directory, lazy=force)
    deadline = time.monotonic() + END_TIMEOUT_S
    found = False
    while time.monotonic() < deadline:
        lock = directory.try_lock()
        if lock is not None:
            clear_run_directory(directory)
            directory.socket.unlink(missing_ok=True)
            os.close(lock)
            return found
        found = True
        _send(directory, signal.SIGINT, deadline)
    raise StateError(f"the mount server on {directory.path} did not end within {END_TIMEOUT_S:g} s")


def replace(directory: RunDirectory, ask_server_pid: Callable[[], int]) -> int:
    """Have the mount server go on with the code that is installed now.

    Args:
        directory: Its run directory.
        ask_server_pid: Asks the control socket.

    Returns:
        Process id of the new server, which answers.

    Raises:
        StateError: none runs, or the new one did not come.
        ImportError: the code that is installed now does not load; the old one goes on undisturbed.
    """
    load_server_code()
    before = ask_server_pid()
    supervisor = _supervisor(directory)
    if supervisor is None:
        raise StateError(f"no mount server runs on {directory.path}")
    os.kill(supervisor, signal.SIGHUP)
    deadline = time.monotonic() + REPLACE_TIMEOUT_S
    while time.monotonic() < deadline:
        if (now := ask_server_pid()) != before:
            return now
        time.sleep(_BETWEEN_S)
    raise StateError(f"no new server came within {REPLACE_TIMEOUT_S:g} s; the old one goes on")


def _send(directory: RunDirectory, number: signal.Signals, deadline: float) -> None:
    """Signal the supervisor and wait for its end; there may be none for a moment."""
    supervisor = _supervisor(directory)
    if supervisor is not None:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(supervisor)
            try:
                signal.pidfd_send_signal(descriptor, number)
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(max(deadline - time.monotonic(), 0) * 1000)
            finally:
                os.close(descriptor)
    time.sleep(_BETWEEN_S)


def _supervisor(directory: RunDirectory) -> int | None:
    try:
        return int(directory.supervisor_pid.read_text())
    except (OSError, ValueError):
        return None
