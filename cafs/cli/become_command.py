"""How a process that waited takes an errand and becomes that command: files, environment, signals.

Used by ``ready_pulls``, in a process that ends with the errand.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TextIO

from cafs.cli.context import Context
from cafs.cli.failure import EXIT_INTERRUPTED
from cafs.cli.foreseen_pull import foresee_image
from cafs.cli.main import flushed, run
from cafs.cli.pull_errand import (
    ACCEPTED,
    DECLINED,
    ENDED,
    FILES,
    LENGTH_BYTES,
    Errand,
    looks_like_pull,
    parse_errand,
    parse_length,
    whereabouts,
)
from cafs.containerd.announce import announce
from cafs.errors import UsageError
from cafs.oci.reference import RegistryReference, parse_reference

log = logging.getLogger(__name__)

_ERRAND_S = 5.0
_READ_BYTES = 64 << 10
_PEER = struct.Struct("3i")
"""struct ucred of SO_PEERCRED: pid, uid, gid."""


def accept_errand(connection: socket.socket) -> Errand | None:
    """Take an errand and all that came with it; None when it is not for us, which the command is told."""
    connection.settimeout(_ERRAND_S)
    try:
        errand, files = _receive(connection)
        _check(errand, connection)
        os.environb.clear()
        os.environb.update(errand.environment)
        os.fchdir(files[-1])
    except (OSError, ValueError) as e:
        log.info("a pull is left to its own command: %s", e)
        with suppress(OSError):
            connection.sendall(DECLINED)
        return None
    connection.settimeout(None)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    sys.stdout, sys.stderr = _stream(1, errand.encodings[:2]), _stream(2, errand.encodings[2:])
    return errand


def _receive(connection: socket.socket) -> tuple[Errand, list[int]]:
    data, files, _, _ = socket.recv_fds(connection, _READ_BYTES, FILES)
    while len(data) < LENGTH_BYTES or len(data) < LENGTH_BYTES + parse_length(data[:LENGTH_BYTES]):
        if not (part := connection.recv(_READ_BYTES)):
            raise ConnectionResetError("its command has left")
        data += part
    if len(files) != FILES or min(files) <= 2:
        raise ValueError("it came without its files")
    return parse_errand(data[LENGTH_BYTES:]), files


def _check(errand: Errand, connection: socket.socket) -> None:
    """
    Raises:
        ValueError: we would not do the same as the command itself.
    """
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    if _PEER.unpack(peer)[1] != os.geteuid():
        raise ValueError("it is another user's")
    for theirs, ours in zip(errand.same, whereabouts(), strict=True):
        if theirs != ours:
            raise ValueError(f"it says {theirs[:200]!r} where this is {ours!r}")
    if len(errand.encodings) != 4 or not looks_like_pull([os.fsdecode(word) for word in errand.arguments]):
        raise ValueError("it is no pull")


def _stream(number: int, encoding: Sequence[str]) -> TextIO:
    """As Python makes it for a new process."""
    buffered = number == 1 and not os.isatty(number)
    return open(
        number, "w", encoding=encoding[0], errors=encoding[1], closefd=False, buffering=-1 if buffered else 1
    )


class _Cancelled:
    """Set when the node's services are being stopped: the command is to run the pull itself."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self, _number: int, _frame: object) -> None:
        self.is_set = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # What is still said is not for the user: the command will say it anew.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        signal.raise_signal(signal.SIGINT)


def run_command(errand: Errand, connection: socket.socket, mountd: Path) -> NoReturn:
    """Run it, tell the exit code, and end this process.

    Args:
        errand: What to run.
        connection: To the command.
        mountd: The mount server's socket, of the node that the command is for.
    """
    arguments = [os.fsdecode(word) for word in errand.arguments]
    context = Context(announced=_announce_early(arguments, mountd))
    _be_as_killable_as_others()
    logging.getLogger().setLevel(logging.WARNING)
    cancelled = _Cancelled()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, cancelled)
        connection.sendall(ACCEPTED)
        _interrupt_with(connection)
        code = run(arguments, context)
    except (KeyboardInterrupt, OSError):
        code = EXIT_INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = flushed(code)
    with suppress(OSError):
        connection.sendall(DECLINED if cancelled.is_set else ENDED + bytes([code]))
    os._exit(0)


def _announce_early(arguments: Sequence[str], mountd: Path) -> str | None:
    """Tell the mount server which image is about to be pulled, if that can be seen; the word for it."""
    image = foresee_image(arguments, os.environ)
    if image is None:
        return None
    try:
        reference = parse_reference(image)
    except UsageError:
        return None  # the command says so
    if not isinstance(reference, RegistryReference):
        return None
    announce(reference, mountd)
    return image


def _interrupt_with(connection: socket.socket) -> None:
    """From now on Ctrl-C of the command, and its end, are a SIGINT here, as they would be in a process group.

    The kernel sends it as soon as there is something to read: no thread has to wait for that.
    """
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGINT)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if poll.poll(0):
        raise KeyboardInterrupt


def _be_as_killable_as_others() -> None:
    """The snapshotter's service is the last to be killed when memory runs out; a pull is no such thing."""
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError):
        if int(path.read_text()) < 0:
            path.write_text("0")
