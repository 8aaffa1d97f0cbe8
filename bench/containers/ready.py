"""Asks a program whether it is ready: a line it prints, or an answer on its unix socket."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from bench.images.programs import POSTGRES_SOCKET, READY
from demo.process import DemoError

READY_S = 180.0
AGAIN_S = 0.002
"""Between two attempts: what a sample can be too long by."""


def await_answer(asks: str, place: Path, ended: Callable[[], bool]) -> None:
    """Ask what listens in ``place`` again and again until it gives the right answer.

    Args:
        asks: ``http``, ``redis`` or ``postgres``.
        place: The directory of its socket.
        ended: Says whether the program is gone, so that nothing will come.

    Raises:
        DemoError: it ended, or did not answer in time.
    """
    ask = {"http": _ask_http, "redis": _ask_redis, "postgres": _ask_postgres}[asks]
    deadline = time.monotonic() + READY_S
    while True:
        try:
            ask(place)
        except (OSError, _NotReadyError) as e:
            if ended() or time.monotonic() > deadline:
                raise DemoError(f"the program did not become ready: {e}") from e
            time.sleep(AGAIN_S)
        else:
            return


class _NotReadyError(Exception):
    """It answers, but not yet what it should."""


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(READY_S)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _converse(path: Path, request: bytes, until: bytes) -> None:
    with _connected(path) as connection:
        connection.sendall(request)
        answer = b""
        while until not in answer:
            part = connection.recv(65536)
            if not part:
                raise _NotReadyError(f"it said {answer[-200:]!r}")
            answer += part


def _ask_http(place: Path) -> None:
    _converse(
        place / "ready.sock", b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n", READY.encode()
    )


def _ask_redis(place: Path) -> None:
    _converse(place / "ready.sock", b"PING\r\n", b"+PONG")


def _ask_postgres(place: Path) -> None:
    """``SELECT 1``, no password. Protocol 3: PostgreSQL's documentation, "Message Formats"."""
    parameters = b"user\0postgres\0database\0postgres\0\0"
    startup = struct.pack(">ii", 8 + len(parameters), 196608) + parameters
    text = b"SELECT 1\0"
    query = b"Q" + struct.pack(">i", 4 + len(text)) + text
    # A data row of one column: its length, then the text.
    row = b"D" + struct.pack(">ihi", 11, 1, 1) + b"1"
    _converse(place / POSTGRES_SOCKET, startup + query, row)
