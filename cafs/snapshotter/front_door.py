"""The socket that containerd knows: it outlives the program, so that a call during a restart waits.

containerd's garbage collection asks once; a socket that nobody listens on would leave what it wanted removed.
grpc can only serve on sockets that it makes itself. So the one that containerd knows is ours, is kept by
systemd between two programs (its descriptor store; without systemd it ends with us), and what comes in is
passed on, byte for byte, to grpc's own below the root. Owned by ``program``.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore, Thread

from cafs.errors import StateError

log = logging.getLogger(__name__)

LISTENER = "cafs-containerd"
"""What systemd calls the descriptor."""
_MAX_SOCKET_BYTES = 107
_BACKLOG = 128
_READ_BYTES = 1 << 16
_MOST_CONNECTIONS = 128
"""containerd has one, and whoever looks at the socket another."""
_CONNECT_S, _AGAIN_S = 5.0, 0.1


def open_listener(address: Path, handed_over: Mapping[str, int]) -> socket.socket:
    """The socket at this path: the one that the program before us had, or a new one of mode 0600.

    Raises:
        StateError: somebody else listens there, or it is something else.
    """
    if LISTENER in handed_over:
        kept = socket.socket(fileno=handed_over[LISTENER])
        if kept.getsockname() == str(address) and address.is_socket():
            return kept
        kept.close()
    free_socket(address)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # it is nobody else's from its first moment on
    try:
        listener.bind(str(address))
    except OSError as e:
        listener.close()
        raise StateError(f"cannot serve on {address}: {e.strerror}") from e
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def free_socket(address: Path) -> None:
    """Take a stale socket away.

    Raises:
        StateError: somebody listens on it, or it is something else.
    """
    if len(os.fsencode(address)) > _MAX_SOCKET_BYTES:
        raise StateError(f"{address} is too long for a socket: at most {_MAX_SOCKET_BYTES} bytes")
    if not os.path.lexists(address):
        return
    if not address.is_socket():
        raise StateError(f"{address} exists and is no socket: move it away, or give --address")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # who listens and accepts nothing would have us wait for ever
        try:
            probe.connect(str(address))
        except ConnectionRefusedError:
            address.unlink()
        except OSError as e:
            raise StateError(f"cannot take over {address}: {e.strerror}") from e
        else:
            raise StateError(f"somebody serves on {address} already: stop it, or give --address")


@contextmanager
def passed_on(listener: socket.socket, inner: Path) -> Iterator[None]:
    """Meanwhile what connects to ``listener`` talks to whoever serves at ``inner``. Closes the listener.

    Connections that are open at the end last as long as those who talk.
    """
    # Whoever else holds the socket, as the program after us may, can be faster: nobody waits in accept.
    listener.setblocking(False)
    stop = os.eventfd(0)
    door = Thread(target=_let_in, args=(listener, inner, stop), name="door", daemon=True)
    door.start()
    try:
        yield
    finally:
        os.eventfd_write(stop, 1)
        door.join()
        os.close(stop)
        listener.close()


def _let_in(listener: socket.socket, inner: Path, stop: int) -> None:
    """Each connection gets threads of its own: in a process that was idle, as a snapshotter is, a call is
    there and back a quarter of a millisecond earlier than by way of the event loop.
    """
    room = BoundedSemaphore(_MOST_CONNECTIONS)
    ready = select.poll()
    ready.register(listener, select.POLLIN)
    ready.register(stop, select.POLLIN)
    while stop not in (descriptor for descriptor, _ in ready.poll()):
        try:
            outer, _ = listener.accept()
        except BlockingIOError:
            continue
        except OSError as e:  # no descriptor is left, say
            log.warning("a connection waits: %s", e.strerror)
            time.sleep(_AGAIN_S)
            continue
        outer.setblocking(True)
        if not room.acquire(blocking=False):
            log.warning("more than %d connections: one is closed", _MOST_CONNECTIONS)
            outer.close()
            continue
        try:
            Thread(target=_pass_on, args=(outer, inner, room), name="passes on", daemon=True).start()
        except RuntimeError as e:  # no thread is left; the door must not fall shut for that
            log.warning("a connection is closed: %s", e)
            outer.close()
            room.release()
            time.sleep(_AGAIN_S)


def _pass_on(outer: socket.socket, inner: Path, room: BoundedSemaphore) -> None:
    """Until either side ends."""
    with outer:
        try:
            _join(outer, inner)
        except (OSError, RuntimeError) as e:  # also where no second thread is left
            log.warning("a connection cannot be passed on to %s: %s", inner, e)
        finally:
            room.release()


def _join(outer: socket.socket, inner: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.settimeout(_CONNECT_S)
        server.connect(str(inner))
        server.settimeout(None)
        answers = Thread(target=_pump, args=(server, outer), name="answers", daemon=True)
        answers.start()
        _pump(outer, server)
        answers.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_READ_BYTES):
            target.sendall(data)
    for end in (source, target):  # which ends the other direction, too
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
