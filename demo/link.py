"""Two network namespaces, joined by a link of limited rate: the registry's side and the client's side.

The machine's own network is not touched: both ends of the link live in namespaces of their own, which
have no way out. Commands enter them with ``nsenter --net`` rather than ``ip netns exec``, because the
latter also makes a mount namespace, and a lazy mount made inside would be invisible outside. Needs root.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from demo.process import DemoError, run

SERVER_ADDRESS = "10.213.7.1"
CLIENT_ADDRESS = "10.213.7.2"
DEVICE = "link0"
_QUEUE_S = 0.05
"""Bytes queued in a real switch before it drops: enough for TCP to fill the link, little delay."""


@dataclass(frozen=True, slots=True)
class Link:
    """The two namespaces, and what crossed between them."""

    server: str
    client: str
    mbit_per_s: int

    def on_server(self) -> list[str]:
        """Words that make the command after them run on the registry's side."""
        return _enter(self.server)

    def on_client(self) -> list[str]:
        """Words that make the command after them run on the client's side."""
        return _enter(self.client)

    def received_bytes(self) -> int:
        """Everything the client's end received so far, headers included."""
        shown = run(["ip", "-n", self.client, "-s", "-j", "link", "show", "dev", DEVICE])
        return int(json.loads(shown)[0]["stats64"]["rx"]["bytes"])


def _enter(name: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{name}"]


def join_by_veth(link: Link) -> None:
    """A cable between both namespaces, ``DEVICE`` at either end."""
    peer = ["peer", "name", DEVICE, "netns", link.client]
    run(["ip", "-n", link.server, "link", "add", DEVICE, "type", "veth", *peer])


@contextmanager
def open_link(mbit_per_s: int, join: Callable[[Link], None] = join_by_veth) -> Iterator[Link]:
    """Make the namespaces and the link; remove them at the end, whatever happened.

    Args:
        mbit_per_s: In either direction.
        join: Puts a device with the name ``DEVICE`` into both namespaces.

    Raises:
        DemoError: not root, or the kernel lacks network namespaces, veth or tbf.
    """
    if os.geteuid() != 0:
        raise DemoError("network namespaces need root: run this as root or through sudo")
    link = Link(f"cafs-server-{os.getpid()}", f"cafs-client-{os.getpid()}", mbit_per_s)
    made: list[str] = []
    try:
        for name in (link.server, link.client):
            run(["ip", "netns", "add", name])
            made.append(name)
        join(link)
        for name, address in ((link.server, SERVER_ADDRESS), (link.client, CLIENT_ADDRESS)):
            _set_up(name, address, mbit_per_s)
        yield link
    finally:
        # A namespace takes its end of the link with it. One that still holds a process lives on
        # without a name until that ends, so nothing is waited for here.
        for name in made:
            with suppress(DemoError):
                run(["ip", "netns", "delete", name])


def _set_up(name: str, address: str, mbit_per_s: int) -> None:
    run(["ip", "-n", name, "address", "add", f"{address}/30", "dev", DEVICE])
    for device in ("lo", DEVICE):
        run(["ip", "-n", name, "link", "set", device, "up"])
    _limit(name, mbit_per_s)


def _limit(name: str, mbit_per_s: int) -> None:
    """Token bucket on what leaves by this end."""
    bytes_per_s = mbit_per_s * 1_000_000 // 8
    # The bucket holds one full GSO packet at least (64 KiB), else large sends would be dropped.
    burst = max(128 << 10, bytes_per_s // 250)
    limit = int(bytes_per_s * _QUEUE_S)
    bucket = ["tbf", "rate", f"{mbit_per_s}mbit", "burst", str(burst), "limit", str(limit)]
    run(["tc", "-n", name, "qdisc", "add", "dev", DEVICE, "root", *bucket])
