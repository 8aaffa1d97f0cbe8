"""Processes that ``cafs snapshotter`` keeps ready: loaded, and waiting to become a ``cafs pull``.

``cafs.cli.pull_errand`` is the command's side. Three kinds of processes:

    snapshotter ── keeper, forked before the snapshotter has threads; loads what a pull needs
                     └─ one that waits, forked; takes one errand, becomes that command, and ends with it

When one has taken an errand, the keeper forks the next. A pull is a process of its own, as ever: whatever it
does is nothing to the snapshotter, and what it is handed (environment, files, the credentials it finds
there) ends with it. The socket is the user's only, mode 0600.

A snapshotter that is killed takes keeper and waiting process with it; pulls under way go on. One that is told
to end has pulls cancelled, in order; their commands are told, and run them themselves.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from cafs.cli.become_command import accept_errand, run_command
from cafs.control_socket.protocol import usual_socket
from cafs.errors import StateError
from cafs.fuse.syscalls import signal_on_parent_death, stop_parent_death_signal

log = logging.getLogger(__name__)

_BACKLOG = 256
_LOAD_S = 20.0
_GO, _READY = b"g", b"r"
_AGAIN_S = 1.0
"""After a waiting process that died of itself: whatever it died of is not to be repeated at full speed."""
_CANCEL_S = 12
"""Longer than a cancelled pull takes to release what it holds."""
_GRACE_S = 3
"""More than the keeper then needs to end."""


class ReadyPulls:
    """The keeper, as the snapshotter sees it."""

    def __init__(self, path: Path, not_theirs: Collection[int]) -> None:
        """Fork it. It loads, and waits for ``begin``. No threads may run yet.

        Args:
            path: Its socket in ``run_dir``, from ``begin`` on.
            not_theirs: Descriptors of the snapshotter's that no pull is to hold.
        """
        self._path = path
        mountd = usual_socket(path.parent)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._made: tuple[int, int] | None = None
        self._keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._keeper.close()
            for descriptor in not_theirs:
                os.close(descriptor)
            _never_return(lambda: _keep(self._listener, theirs, parent, mountd))
        theirs.close()

    def begin(self) -> None:
        """Serve, as soon as the keeper has loaded; waits for that.

        A socket that is there is replaced: whoever was started last serves.

        Raises:
            StateError: the socket cannot be made, or the keeper has died.
        """
        # By another name first, so that whatever has the right one can be replaced at any time.
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            os.fchmod(self._listener.fileno(), 0o600)  # which bind(2) gives the file from its first moment on
            self._listener.bind(os.fspath(new))
            self._listener.listen(_BACKLOG)
            self._made = _identity(new)
            new.rename(self._path)
            self._keeper.settimeout(_LOAD_S)
            self._keeper.sendall(_GO)
            if not self._keeper.recv(1):
                raise StateError("the process that is to run them has died")
        except OSError as e:
            raise StateError(f"cannot serve on {self._path}: {e.strerror or e}") from e
        finally:
            # The keeper's alone: if that dies, nobody is to wait for it.
            self._listener.close()

    def end(self) -> None:
        """Have all pulls cancelled, and wait for that. May be called twice."""
        if self._pid == 0:
            return
        with suppress(OSError):
            if _identity(self._path) == self._made:
                self._path.unlink()
        # It is our child and was not waited for: this is still its number. One that never began has no pulls.
        began = self._made is not None
        os.kill(self._pid, signal.SIGTERM if began else signal.SIGKILL)
        if not _has_ended(self._pid, _CANCEL_S + _GRACE_S):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = 0
        self._keeper.close()
        self._listener.close()


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Wait for the end of a child, which stays to be reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        return bool(ended.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _never_return(work: Callable[[], None]) -> NoReturn:
    """In a forked process: what called ``fork`` must not go on here."""
    try:
        work()
    except Exception:
        log.exception("a process that is kept ready for pulls failed")
    finally:
        os._exit(1)


def _keep(listener: socket.socket, snapshotter: socket.socket, parent: int, mountd: Path) -> None:
    """The keeper."""
    signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != parent:
        return
    # Ctrl-C in the snapshotter's terminal is the snapshotter's matter. And all children are in our group:
    # before it is ours, no signal may be passed on to it.
    os.setsid()
    signal.signal(signal.SIGTERM, _end_all)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel waits for them
    _load()
    gc.collect()
    gc.freeze()  # so that a collection in a child does not copy every page
    if not snapshotter.recv(1):
        return
    snapshotter.sendall(_READY)
    while True:
        _keep_one_ready(listener, mountd)


def _keep_one_ready(listener: socket.socket, mountd: Path) -> None:
    """Returns when it has taken an errand."""
    taken, take = os.pipe()
    keeper = os.getpid()
    if os.fork() == 0:
        os.close(taken)
        _never_return(lambda: _wait_for_errand(listener, take, keeper, mountd))
    os.close(take)
    came = os.read(taken, 1)
    os.close(taken)
    if not came:
        time.sleep(_AGAIN_S)


def _end_all(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    signal.alarm(_CANCEL_S)
    with suppress(ChildProcessError):
        os.waitpid(-1, 0)  # SIGCHLD is ignored: it returns, with this error, when there is none left
    os._exit(0)


def _load() -> None:
    """All that a pull needs: it is shared with every process that is forked from here on.

    The last three are loaded by others when they are first used: grpc's channels, and what ``getaddrinfo``
    encodes names with.
    """
    for module in (
        "trio",
        "cafs.cli.main",
        "cafs.cli.pull",
        "cafs.containerd.announce",
        "cafs.containerd.pull",
        "grpc._channel",
        "grpc.experimental",
        "encodings.idna",
    ):
        import_module(module)


def _wait_for_errand(listener: socket.socket, take: int, keeper: int, mountd: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != keeper:
        return
    from cafs.containerd.connection import warm_up  # noqa: PLC0415 - loads grpc, which the keeper has loaded

    warm = warm_up()
    connection, _ = listener.accept()
    stop_parent_death_signal(signal.SIGKILL)
    os.write(take, b".")
    os.close(take)
    listener.close()
    if (errand := accept_errand(connection)) is not None:
        run_command(errand, connection, mountd)
    del warm
