"""The supervising process of the mount server: begins a session or takes one over, keeps it, ends it.

``keep_session`` runs in the process of ``cafs mountd``. Run as a program (``python -m
cafs.node.mountd.keeper``) it goes on with a session after its supervisor was killed, or after SIGHUP, with
the code that is installed by then. The code of a server is loaded here, so that a killed one is replaced
within milliseconds, but nothing of it runs here. How one process follows the other: docs/takeover.md,
docs/mountd.md.

Orders: SIGTERM leaves the session to a successor if systemd keeps its descriptors, and else ends it; SIGINT
ends it; SIGHUP goes on with newer code.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cafs.daemon.service_manager import ServiceManager
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.supervisor import Supervisor, Then, Turn
from cafs.fuse.syscalls import stop_parent_death_signal
from cafs.node.keeper import set_up_log
from cafs.node.mount_state import write_pid
from cafs.node.mountd.state import RunDirectory
from cafs.node.mountd.take_down import take_down
from cafs.node.mountd.vault import Vault

log = logging.getLogger(__name__)

FUSE, OUTSTANDING, CONTROL, VAULT = "cafs-fuse", "cafs-outstanding", "cafs-control", "cafs-vault"
"""Names of our descriptors in systemd's store. ``CONTROL`` may also come from a socket unit."""


@dataclass(frozen=True, slots=True)
class Session:
    """All that a FUSE session consists of, while no process serves it."""

    directory: RunDirectory
    lock: int
    listener: int
    vault: int
    turn: Turn

    def descriptors(self) -> dict[str, int]:
        """What a successor needs; the lock it takes itself."""
        return {
            FUSE: self.turn.descriptor,
            OUTSTANDING: self.turn.outstanding.descriptor,
            CONTROL: self.listener,
            VAULT: self.vault,
        }


def keep_session(session: Session, manager: ServiceManager, predecessor: int | None = None) -> None:
    """Supervise servers until the session has ended, or was left to a successor.

    Args:
        session: To keep.
        manager: Keeps the descriptors meanwhile, if there is one.
        predecessor: Our child that serves, or only holds the descriptors, until our first server begins.
    """
    directory = session.directory
    load_server_code()
    manager.store(session.descriptors())
    write_pid(directory.supervisor_pid, os.getpid())
    left: list[bool] = []

    def leave() -> Then:
        if not manager.is_there:
            return end()
        log.info("leaving the session to a successor: systemd keeps its descriptors")
        left.append(True)
        return Then.LEAVE

    def end() -> Then:
        manager.tell("STOPPING=1")
        take_down(directory, lazy=True)
        return Then.LEAVE

    orders = {signal.SIGTERM: leave, signal.SIGINT: end, signal.SIGHUP: lambda: Then.REPLACE}
    Supervisor(
        session.turn,
        partial(_serve, session, manager),
        orders=orders,
        started=lambda pid: write_pid(directory.server_pid, pid),
        adopt=partial(_adoption, session),
        predecessor=predecessor,
    ).run()
    if not left:
        manager.discard(list(session.descriptors()))
        clear_run_directory(directory)
        directory.socket.unlink(missing_ok=True)


def clear_run_directory(directory: RunDirectory) -> None:
    """Nothing of a session is left, mounted or written. The lock must be held."""
    take_down(directory, lazy=True)
    directory.forget_session()


def load_server_code() -> None:
    """Import what a server needs, so that forking one is enough. Loaded, not used: no thread, no file.

    The collector would look through all these modules again and again, and touching them later would
    copy pages that servers share.
    """
    gc.disable()
    import cafs.node.mountd.server  # noqa: PLC0415  heavy: only in a process that forks servers
    import cafs.oci.registry.repository  # noqa: F401, PLC0415  every layer comes from a registry

    gc.freeze()
    gc.enable()


def _serve(session: Session, manager: ServiceManager, turn: Turn) -> int:
    """In the forked server."""
    from cafs.node.mountd.server import ServerParts, serve_layers  # noqa: PLC0415  see load_server_code

    listener = socket.socket(fileno=session.listener)
    return serve_layers(ServerParts(session.directory, listener, Vault(session.vault), manager), turn)


def _adoption(session: Session, turn: Turn, holder: int) -> Sequence[str]:
    numbers = [session.lock, session.listener, session.vault, turn.descriptor, turn.outstanding.descriptor]
    for number in numbers:
        os.set_inheritable(number, True)
    rest = [int(turn.can_resend), holder]
    program = "cafs.node.mountd.keeper"
    return [sys.executable, "-m", program, str(session.directory.path), *map(str, (*numbers, *rest))]


def main(arguments: Sequence[str]) -> int:
    """Go on with the session of a supervisor that was killed or replaced itself."""
    stop_parent_death_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    directory = RunDirectory(Path(arguments[0]))
    *inherited, can_resend, holder = map(int, arguments[1:])
    for descriptor in inherited:
        os.set_inheritable(descriptor, False)
    lock, listener, vault, fuse, outstanding = inherited
    set_up_log(None)
    log.warning("supervising in place of a killed supervisor, or of older code")
    turn = Turn(fuse, Outstanding(outstanding), bool(can_resend), takes_over=True)
    session = Session(directory, lock, listener, vault, turn)
    keep_session(session, ServiceManager(os.environ), holder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
