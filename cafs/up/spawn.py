"""Starts a service: a process group of its own, ended in order when we die, with what its predecessor left.

We fork ourselves because the service must find its own process id in ``LISTEN_PID`` (sd_listen_fds(3)).
This process has one thread, so nothing is held by another one while it forks.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from typing import NoReturn

from cafs.fuse.syscalls import signal_on_parent_death

_FIRST_DESCRIPTOR, _OUT_OF_THE_WAY = 3, 64
_CANNOT_EXECUTE = 127


def spawn(
    command: Sequence[str], environment: Mapping[str, str], output: int, handed_over: Mapping[str, int]
) -> int:
    """The process id of a service that begins.

    Should this process die, however that happens, it gets SIGINT, which ends it in order.

    Args:
        command: Its argument list; the first is a path.
        environment: All of it.
        output: Becomes its standard output and error.
        handed_over: Descriptors that it inherits, by name.
    """
    parent = os.getpid()
    everything = signal.valid_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    try:
        if (pid := os.fork()) == 0:
            _become(command, environment, output, handed_over, parent)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: int,
    handed_over: Mapping[str, int],
    parent: int,
) -> NoReturn:
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal_on_parent_death(signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        inherited = {**environment, **_listening(handed_over)}
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(command[0], list(command), inherited)  # noqa: S606  our own arguments
    except OSError as e:
        os.write(2, f"cafs: cannot run {command[0]}: {e.strerror}\n".encode())
    finally:
        os._exit(_CANNOT_EXECUTE)


def _listening(handed_over: Mapping[str, int]) -> dict[str, str]:
    """Put the descriptors where sd_listen_fds(3) wants them; the variables that tell of them."""
    if not handed_over:
        return {}
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for number in handed_over.values()]
    for position, number in enumerate(moved):
        os.dup2(number, _FIRST_DESCRIPTOR + position)
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(moved)),
        "LISTEN_FDNAMES": ":".join(handed_over),
    }
