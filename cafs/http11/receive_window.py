"""How much a sender may have under way to us on one TCP connection: what the way holds, and little more.

What is more than that stands in a queue somewhere, in front of what somebody waits for. On one switch the way
holds next to nothing; between two sites with 20 ms of round trip it holds 2.5 MB at 1 Gbit/s, and a window of
some KiB would leave the link idle most of the time.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Protocol

NEAR_S = 0.0015
"""A round trip on one switch, between busy hosts."""
LINK_BYTES_PER_S = 125_000_000
"""Of what links between sites have for one host; a slower one gets a queue of at most that much."""
MOST_BYTES = 32 << 20
"""Of a way, a quarter of a second at that rate: the other side decides how long a round trip takes, and what
waits in such a buffer is memory that no limit of the system holds back from root."""
_RECEIVE_BUFFER_FORCE = 33
"""SO_RCVBUFFORCE of asm-generic/socket.h: not bounded by net.core.rmem_max, but for root only."""
_TCP_INFO_BYTES, _LEAST_ROUND_TRIP_AT = 152, 148
"""struct tcp_info of linux/tcp.h, up to tcpi_min_rtt, which is in microseconds."""


class Socket(Protocol):
    """What is needed of one, trio's or Python's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...

    def setsockopt(self, level: int, optname: int, value: int, /) -> None: ...


def window_bytes(queue_bytes: int, round_trip_s: float) -> int:
    """The window that leaves ``queue_bytes`` in queues on a way that is used alone. Pure."""
    way_bytes = int(round_trip_s * LINK_BYTES_PER_S) if round_trip_s > NEAR_S else 0
    return queue_bytes + min(way_bytes, MOST_BYTES)


def narrow_window(connected: Socket, queue_bytes: int) -> None:
    """Set the receive buffer so. May be called again: the round trip is known better with time."""
    wanted = window_bytes(queue_bytes, least_round_trip_s(connected))
    with suppress(PermissionError):
        connected.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, wanted)
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)


def least_round_trip_s(connected: Socket) -> float:
    """The shortest that the kernel saw on this connection; 0 where it does not say."""
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return 0.0
    microseconds: int = struct.unpack_from("=I", info, _LEAST_ROUND_TRIP_AT)[0]
    return 0.0 if microseconds == 0xFFFFFFFF else microseconds / 1e6
