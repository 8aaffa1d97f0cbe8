"""Ports for programs that are told theirs, or come back to it after a restart."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

_FIRST = 10_000


def chosen_port() -> int:
    """One of 127.0.0.1 that nobody has.

    It is none of those that the kernel hands out: of these another test's program may be given the same one
    before it is used, or while its program is away.
    """
    kernels = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = SystemRandom().randrange(_FIRST, kernels)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError(f"no port from {_FIRST} to {kernels} is free")
