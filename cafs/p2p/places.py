"""What a peer has to itself on its machine: its name, its two listening sockets."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafs.core.swarm.ids import HostId, parse_host_id
from cafs.errors import StateError, StorageError, UsageError

_BACKLOG = 512
_MAX_SOCKET_BYTES = 107


def keep_host_id(directory: Path) -> HostId:
    """This host's name, made the first time.

    Raises:
        StorageError: it can be neither read nor written.
    """
    path = directory / "host-id"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            return parse_host_id(path.read_text().strip())
        made = HostId(secrets.token_hex(16))
        beside = path.with_name("host-id.new")
        beside.write_text(made + "\n")
        beside.replace(path)
    except (OSError, UsageError) as e:
        raise StorageError(f"cannot keep this host's id in {path}: {e}") from e
    return made


@contextmanager
def listen_unix(path: Path) -> Iterator[socket.socket]:
    """Only we may connect, from the first moment on."""
    if len(os.fsencode(path)) > _MAX_SOCKET_BYTES:
        raise UsageError(f"{path} is too long for a socket: choose a shorter run_dir")
    if os.path.lexists(path):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StateError(f"{path} is there and is no socket: move it away")
        path.unlink()  # nobody listens there: we hold the lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as e:
            raise StateError(f"cannot serve on {path}: {e.strerror}") from e
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def listen_tcp(text: str) -> Iterator[socket.socket]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) >= 1 << 16:
        raise UsageError(f"peer_listen: {text[:80]!r} is not HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host or "127.0.0.1", int(port)), family=family, backlog=_BACKLOG)
    except OSError as e:
        raise StateError(f"cannot serve other hosts on {text}: {e.strerror}") from e
    with listener:
        yield listener
