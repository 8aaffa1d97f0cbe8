"""The supervising process of one mount: mounts FUSE, supervises servers, cleans up at the end.

``keep_when_told`` runs in the process that ``cafs mount`` forks. Run as a program (``python -m
cafs.node.keeper``) it is what a server becomes whose supervisor was killed: it takes the descriptors and
goes on. The code of a server is loaded here, so that a killed one is replaced within milliseconds, but
nothing of it runs here. For a new mount it is loaded while a first, lighter server answers already.
"""

from __future__ import annotations

import gc
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
from cafs.fuse.supervisor import REFUSED, Beginning, Supervisor, Then, Turn, answer_init
from cafs.fuse.syscalls import stop_parent_death_signal
from cafs.node.first_answers import give_first_answers
from cafs.node.mount_state import MountDirectory, write_pid
from cafs.node.prefork import FOREGROUND
from cafs.node.take_down import take_down

log = logging.getLogger(__name__)

Message = dict[str, Any]


def keep_when_told(channel: socket.socket) -> int:
    """Keep a new mount, as soon as the command has said which; see ``prefork``.

    Args:
        channel: To the command.

    Returns:
        Exit status of this process.
    """
    message, descriptors, _flags, _address = socket.recv_fds(channel, 4096, 1)
    if not descriptors:
        return 1  # the command gave up, or needs nobody
    (lock,) = descriptors
    os.set_inheritable(lock, False)
    foreground = message[:1] == FOREGROUND
    directory = MountDirectory(Path(os.fsdecode(message[1:])))
    try:
        set_up_log(None if foreground else directory.log)
        if not foreground:
            _leave_terminal(directory.log)
        return _keep_new_mount(directory, lock, channel)
    except Exception as e:
        tell_failure(channel, e)
        return 1


def load_server_code() -> None:
    """Import what a server needs, so that forking one is enough. Loaded, not used: no thread, no file.

    The collector would look through all these modules again and again, and touching them later would
    copy pages that servers share.
    """
    gc.disable()
    import cafs.fuse.merged  # noqa: PLC0415  heavy, all of it: only in a process that forks servers
    import cafs.node.mount_server  # noqa: F401, PLC0415

    gc.freeze()
    gc.enable()


def _leave_terminal(log_file: Path) -> None:
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    output = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for source, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, number)
    os.close(nothing)
    os.close(output)


def _keep_new_mount(directory: MountDirectory, lock: int, starter: socket.socket) -> int:
    request = directory.read_request()
    target = directory.fuse_target(request)
    options = DeviceOptions(request.source, allow_other=may_mount(), trusted=request.trusted)
    descriptor = mount_device(target, options)
    agreed = answer_init(descriptor)
    turn = Turn(descriptor, Outstanding(), agreed.can_resend, takes_over=False)
    if not turn.can_resend:
        load_server_code()
        return _keep(directory, lock, turn, starter=starter)
    ours, checkers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def load() -> None:
        checkers.close()  # else the server would not notice that nobody checks
        load_server_code()

    beginning = Beginning(
        lambda turn: give_first_answers(directory, turn, partial(_tell, starter), checkers), load
    )
    return _keep(directory, lock, turn, starter=starter, checker=ours, beginning=beginning)


def _keep(
    directory: MountDirectory,
    lock: int,
    turn: Turn,
    *,
    starter: socket.socket | None = None,
    checker: socket.socket | None = None,
    predecessor: int | None = None,
    beginning: Beginning | None = None,
) -> int:
    write_pid(directory.supervisor_pid, os.getpid())
    supervisor = Supervisor(
        turn,
        lambda turn: _serve(directory, turn, starter, checker),
        orders=dict.fromkeys((signal.SIGTERM, signal.SIGINT), partial(_unmount, directory)),
        started=lambda pid: _write_pid(directory, pid),
        adopt=partial(_adoption, directory, lock),
        predecessor=predecessor,
        starter=None if starter is None else starter.fileno(),
        beginning=beginning,
    )
    status = supervisor.run()
    if status == REFUSED:
        take_down(directory, lazy=True)
    directory.remove()
    return status


def _unmount(directory: MountDirectory) -> Then:
    take_down(directory, lazy=True)
    return Then.STAY


def _serve(
    directory: MountDirectory, turn: Turn, starter: socket.socket | None, checker: socket.socket | None
) -> int:
    """In the forked server."""
    from cafs.node.mount_server import serve_mount  # noqa: PLC0415  heavy, and only for the server
    from cafs.node.opening import open_layers  # noqa: PLC0415

    try:
        return serve_mount(directory, turn, open_layers, partial(_tell, starter), checker)
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
    write_pid(directory.server_pid, pid)


def _adoption(directory: MountDirectory, lock: int, turn: Turn, holder: int) -> Sequence[str]:
    os.set_inheritable(lock, True)
    numbers = [lock, turn.descriptor, turn.outstanding.descriptor, int(turn.can_resend), holder]
    return [sys.executable, "-m", "cafs.node.keeper", str(directory.path), *map(str, numbers)]


def main(arguments: Sequence[str]) -> int:
    """Go on with the mount of a killed supervisor."""
    directory = MountDirectory(Path(arguments[0]))
    lock, descriptor, outstanding, can_resend, holder = map(int, arguments[1:])
    for inherited in (lock, descriptor, outstanding):
        os.set_inheritable(inherited, False)
    stop_parent_death_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    set_up_log(directory.log)
    load_server_code()
    log.warning("supervising in place of a killed supervisor")
    turn = Turn(descriptor, Outstanding(outstanding), bool(can_resend), takes_over=True)
    return _keep(directory, lock, turn, predecessor=holder)


def set_up_log(path: Path | None) -> None:
    """Log to the mount's file, or to standard error for a mount in the foreground."""
    logging.basicConfig(
        force=True,
        level=logging.INFO,
        filename=path,
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    for name in ("httpx2", "httpcore2"):  # their records name every request with all of its address
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
