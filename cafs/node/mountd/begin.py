"""Starting the mount server: a new session, or the one whose descriptors systemd kept."""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
from collections.abc import Mapping

from cafs.errors import CafsError, StateError, StorageError, UsageError
from cafs.fuse.device import DeviceOptions, is_mount_point, may_mount, mount_device
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.supervisor import Turn, answer_init
from cafs.node.mountd.keeper import CONTROL, FUSE, OUTSTANDING, VAULT, Session, clear_run_directory
from cafs.node.mountd.state import MountdRequest, RunDirectory
from cafs.node.mountd.vault import Vault

log = logging.getLogger(__name__)

_MAX_SOCKET_PATH = 107
"""sockaddr_un."""
_BACKLOG = 512
"""More than a node has containers starting at once; they wait here while a server is replaced."""


def begin(directory: RunDirectory, request: MountdRequest, handed_over: Mapping[str, int]) -> Session:
    """A session that no process serves yet.

    Args:
        directory: Where; may hold what processes that were all killed left behind.
        request: How to serve.
        handed_over: From ``take_handed_over``.

    Raises:
        StateError: another mount server runs there, or FUSE refuses.
        StorageError: the directory cannot be used.
        UsageError: its path is too long for a socket.
    """
    if len(os.fsencode(directory.socket)) > _MAX_SOCKET_PATH:
        raise UsageError(f"{directory.socket} is too long for a socket: choose a shorter --run")
    lock = directory.try_lock()
    if lock is None:
        raise StateError(f"another cafs mountd runs on {directory.path} (cafs mountd --stop ends it)")
    try:
        session = _take_over(directory, lock, handed_over)
        if session is None:
            clear_run_directory(directory)
        directory.write_request(request)
        return session or _begin_new(directory, lock, handed_over)
    except OSError as e:
        raise StorageError(f"cannot use {directory.path}: {e.strerror}: {e.filename}") from e


def _take_over(directory: RunDirectory, lock: int, handed_over: Mapping[str, int]) -> Session | None:
    """The session that was handed over, None when there is none or it is dead."""
    if not {FUSE, OUTSTANDING, CONTROL, VAULT} <= handed_over.keys():
        return None
    fuse = handed_over[FUSE]
    poll = select.poll()
    poll.register(fuse, 0)
    if poll.poll(0) or not is_mount_point(directory.fuse):
        log.warning("the session that was handed over is dead: beginning a new one")
        os.close(fuse)
        return None
    try:
        can_resend = directory.session_can_resend()
    except CafsError as e:
        log.warning("the state of the session that was handed over is gone (%s): beginning a new one", e)
        os.close(fuse)
        return None
    turn = Turn(fuse, Outstanding(handed_over[OUTSTANDING]), can_resend, takes_over=True)
    log.info("taking over the session that was handed over")
    return Session(directory, lock, handed_over[CONTROL], handed_over[VAULT], turn)


def _begin_new(directory: RunDirectory, lock: int, handed_over: Mapping[str, int]) -> Session:
    directory.fuse.mkdir(mode=0o700, exist_ok=True)
    listener = handed_over.get(CONTROL)
    listener = _listen(directory) if listener is None else listener
    vault = Vault(handed_over.get(VAULT))
    vault.forget_holdings()
    descriptor = mount_device(directory.fuse, DeviceOptions("cafs-mountd", allow_other=may_mount()))
    agreed = answer_init(descriptor)
    directory.begin_session(can_resend=agreed.can_resend)
    turn = Turn(descriptor, Outstanding(), agreed.can_resend, takes_over=False)
    return Session(directory, lock, listener, vault.descriptor, turn)


def _listen(directory: RunDirectory) -> int:
    """Only we may connect, from the first moment on: the directory is 0700, the socket 0600."""
    if directory.socket.is_symlink() or directory.socket.exists():
        if not stat.S_ISSOCK(directory.socket.lstat().st_mode):
            raise StateError(f"{directory.socket} is there and is no socket: move it away")
        directory.socket.unlink()  # nobody listens there: we hold the lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        listener.bind(str(directory.socket))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener.detach()
