"""The supervising process of one mount: mounts FUSE, supervises servers, cleans up at the end.

``keep_new_mount`` runs in the process that ``cafs mount`` forks. Run as a program (``python -m
cafs.node.keeper``) it is what a server becomes whose supervisor was killed: it takes the descriptors and
goes on. Imports nothing heavy: what a server needs is imported in the forked server.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cafs.errors import CafsError, leading_error
from cafs.fuse.device import DeviceOptions, may_mount, mount_device
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.supervisor import REFUSED, Supervisor, Turn, answer_init
from cafs.fuse.syscalls import stop_parent_death_signal
from cafs.node.mount_state import MountDirectory
from cafs.node.take_down import take_down

log = logging.getLogger(__name__)

Message = dict[str, Any]


def keep_new_mount(directory: MountDirectory, lock: int, starter: socket.socket) -> int:
    """Mount FUSE and supervise until the mount is gone.

    Args:
        directory: State of the mount, request written.
        lock: Descriptor of its lock, held.
        starter: To the command that waits: gets one JSON line when the first server serves or refused;
            from it comes one byte when everything is mounted.

    Returns:
        Exit status of this process.
    """
    request = directory.read_request()
    target = directory.fuse_target(request)
    options = DeviceOptions(request.source, allow_other=may_mount(), trusted=request.trusted)
    descriptor = mount_device(target, options)
    agreed = answer_init(descriptor)
    turn = Turn(descriptor, Outstanding(), agreed.can_resend, takes_over=False)
    return _keep(directory, lock, turn, starter)


def _keep(directory: MountDirectory, lock: int, turn: Turn, starter: socket.socket | None) -> int:
    directory.supervisor_pid.write_text(f"{os.getpid()}\n")
    supervisor = Supervisor(
        turn,
        lambda turn: _serve(directory, turn, starter),
        stop=lambda: take_down(directory, lazy=True),
        started=lambda pid: _write_pid(directory, pid),
        adopt=lambda turn: _adoption(directory, lock, turn),
        starter=None if starter is None else starter.fileno(),
    )
    status = supervisor.run()
    if status == REFUSED:
        take_down(directory, lazy=True)
    directory.remove()
    return status


def _serve(directory: MountDirectory, turn: Turn, starter: socket.socket | None) -> int:
    """In the forked server."""
    from cafs.node.mount_server import serve_mount  # noqa: PLC0415  heavy, and only for the server
    from cafs.node.opening import open_layers  # noqa: PLC0415

    try:
        return serve_mount(directory, turn, open_layers, partial(_tell, starter))
    except Exception as e:
        if directory.read_image() is not None:
            raise
        tell_failure(starter, e)
        return REFUSED


def tell_failure(starter: socket.socket | None, error: BaseException) -> None:
    """Let the waiting command say why nothing was mounted."""
    failure = leading_error(error)
    if not isinstance(failure, CafsError):
        log.error("unexpected", exc_info=error)
    _tell(starter, {"error": str(failure), "kind": type(failure).__name__})


def _tell(starter: socket.socket | None, message: Message) -> None:
    if starter is not None:
        with suppress(OSError):  # the command is gone; the supervisor sees that too
            starter.sendall(json.dumps(message).encode() + b"\n")


def _write_pid(directory: MountDirectory, pid: int) -> None:
    directory.server_pid.write_text(f"{pid}\n")


def _adoption(directory: MountDirectory, lock: int, turn: Turn) -> Sequence[str]:
    os.set_inheritable(lock, True)
    numbers = [lock, turn.descriptor, turn.outstanding.descriptor, int(turn.can_resend)]
    return [sys.executable, "-m", "cafs.node.keeper", str(directory.path), *map(str, numbers)]


def main(arguments: Sequence[str]) -> int:
    """Go on with the mount of a killed supervisor."""
    directory = MountDirectory(Path(arguments[0]))
    lock, descriptor, outstanding, can_resend = map(int, arguments[1:])
    for inherited in (lock, descriptor, outstanding):
        os.set_inheritable(inherited, False)
    stop_parent_death_signal()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    set_up_log(directory.log)
    log.warning("supervising in place of a killed supervisor")
    turn = Turn(descriptor, Outstanding(outstanding), bool(can_resend), takes_over=True)
    return _keep(directory, lock, turn, None)


def set_up_log(path: Path | None) -> None:
    """Log to the mount's file, or to standard error for a mount in the foreground."""
    logging.basicConfig(
        force=True,
        level=logging.INFO,
        filename=path,
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    for name in ("httpx", "httpcore"):  # their records name every request, with its headers when debugging
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
