"""How much may be under way on a connection: near hosts leave no queue, far ones fill their link."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from cafs.http11.receive_window import (
    LINK_BYTES_PER_S,
    MOST_BYTES,
    least_round_trip_s,
    narrow_window,
    window_bytes,
)

QUEUE_BYTES = 32 << 10


@pytest.mark.parametrize(
    ("round_trip_s", "window"),
    [
        (0.0, QUEUE_BYTES),
        (0.0004, QUEUE_BYTES),
        (0.01, QUEUE_BYTES + LINK_BYTES_PER_S // 100),
        (0.1, QUEUE_BYTES + LINK_BYTES_PER_S // 10),
        (1.9, QUEUE_BYTES + MOST_BYTES),  # as somebody may have it who answers late on purpose
    ],
)
def test_the_way_is_filled_and_no_more(round_trip_s: float, window: int) -> None:
    assert window_bytes(QUEUE_BYTES, round_trip_s) == window


def test_the_kernel_knows_the_round_trip_and_takes_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[narrow_window.__module__]
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
    ):
        assert 0 < least_round_trip_s(ours) < 5
        for far in (0.0, 0.05):  # as root beyond what is allowed to others
            monkeypatch.setattr(module, "least_round_trip_s", lambda _socket, far=far: far)
            narrow_window(ours, QUEUE_BYTES)
            given = ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            allowed = int(Path("/proc/sys/net/core/rmem_max").read_text())
            wanted = window_bytes(QUEUE_BYTES, far)
            assert given == 2 * (wanted if os.geteuid() == 0 else min(wanted, allowed))
