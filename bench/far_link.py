"""A link as ``demo.link``'s whose packets are long under way: to a registry in another region.

Linux delays packets by netem, which not every kernel has. Here both ends are TUN devices, and a thread hands
each packet over when its time has come. Packets have 9,000 bytes: with 1,500 it would take a third of a core.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from demo.link import DEVICE, Link, open_link
from demo.process import run

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET_BYTES = 9000
_BURST = 64


@contextmanager
def open_far_link(mbit_per_s: int, round_trip_s: float) -> Iterator[Link]:
    """As ``open_link``; an answer is back ``round_trip_s`` after its question at the earliest.

    Raises:
        DemoError: as ``open_link``.
    """
    ends = [_open_tun(number) for number in range(2)]
    stopped, stop = os.pipe()

    def join(link: Link) -> None:
        for number, namespace in enumerate((link.server, link.client)):
            name = _name(number)
            run(["ip", "link", "set", "dev", name, "mtu", str(_PACKET_BYTES), "netns", namespace])
            run(["ip", "-n", namespace, "link", "set", "dev", name, "name", DEVICE])

    carrier = threading.Thread(target=_carry, args=(ends, stopped, round_trip_s / 2), daemon=True)
    carrier.start()
    try:
        with open_link(mbit_per_s, join) as link:
            yield link
    finally:
        os.close(stop)
        carrier.join()
        for descriptor in (*ends, stopped):
            os.close(descriptor)


def _name(number: int) -> str:
    return f"cafs{os.getpid()}-{number}"


def _open_tun(number: int) -> int:
    """A TUN device, which goes with its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", _name(number).encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _carry(ends: list[int], stopped: int, delay_s: float) -> None:
    """Packets from each end to the other, after the delay, until ``stopped`` is closed at its other side."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    under_way: list[tuple[float, int, int, bytes]] = []
    number = 0
    poll = select.epoll()
    for descriptor in (*ends, stopped):
        poll.register(descriptor, select.EPOLLIN)
    with poll:
        while True:
            wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            for descriptor, _ in poll.poll(wait_s):
                if descriptor == stopped:
                    return
                for packet in _packets(descriptor):
                    number += 1  # keeps the order of those that came at once
                    heapq.heappush(under_way, (time.monotonic() + delay_s, number, other[descriptor], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                *_, descriptor, packet = heapq.heappop(under_way)
                with suppress(OSError):  # a device that is down or full loses packets, as a link does
                    os.write(descriptor, packet)


def _packets(descriptor: int) -> Iterator[bytes]:
    for _ in range(_BURST):
        try:
            yield os.read(descriptor, 2 * _PACKET_BYTES)
        except OSError:  # nothing more; or the device is not up yet
            return
