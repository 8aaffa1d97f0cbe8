"""containerd's way in: what it says is passed on to whoever serves behind the door, which stays open."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cafs.errors import StateError
from cafs.snapshotter.front_door import open_listener, passed_on
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S


@contextmanager
def door(folder: Path) -> Iterator[tuple[Path, socket.socket]]:
    """Where containerd connects, and the socket behind it."""
    outer, inner = folder / "outer", folder / "inner"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(inner))
        server.listen()
        server.settimeout(PATIENCE_S)
        with passed_on(open_listener(outer, {}), inner):
            yield outer, server


@contextmanager
def connected(address: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(address))
        yield client


def speak(address: Path, server: socket.socket) -> None:
    """Both ways, and the end of it."""
    with connected(address) as client:
        client.sendall(b"ask")
        with server.accept()[0] as there:
            there.settimeout(PATIENCE_S)
            assert there.recv(10) == b"ask"
            there.sendall(b"answer")
            assert client.recv(10) == b"answer"
        assert client.recv(10) == b""


def test_it_stays_open_where_no_thread_is_left_for_a_connection(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("a connection is closed: can't start new thread")
    with door(tmp_path) as (address, server):
        speak(address, server)
        before = threading.stack_size(1 << 50)  # of a thread to come: no machine has that
        try:
            with connected(address) as client:
                assert client.recv(1) == b""
        finally:
            threading.stack_size(before)
        speak(address, server)


def test_a_connection_ends_where_nobody_serves(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("cannot be passed on to .*inner: .*Connection refused")
    with door(tmp_path) as (address, server):
        server.close()
        with connected(address) as client:
            assert client.recv(1) == b""


def test_a_socket_whose_owner_accepts_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        hangs = stack.enter_context(socket.socket(socket.AF_UNIX))
        hangs.bind(str(tmp_path / "outer"))
        hangs.listen(0)
        full = 0
        while not full:  # its queue is short, and nobody takes from it
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            full = waiting.connect_ex(str(tmp_path / "outer"))
        with pytest.raises(StateError, match="cannot take over"):
            open_listener(tmp_path / "outer", {})
