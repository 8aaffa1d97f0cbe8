"""Hosts as network namespaces on one switch, each with a link of limited rate in both directions.

The switch is a bridge in a namespace of its own, so the machine's network is not touched. Needs root.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from demo.process import DemoError, run

QUEUE_MS = 50
"""Queued in a real switch before it drops."""
BURST_MS = 5
"""What a port that was idle passes at once: a shaper of packets of up to 64 KiB needs about so much."""


@dataclass(frozen=True, slots=True)
class Port:
    """One host."""

    namespace: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that shall run there."""
        return ("nsenter", f"--net=/run/netns/{self.namespace}")

    def sent_bytes(self) -> int:
        """Everything that left the host so far, headers included."""
        shown = run(["ip", "-n", self.namespace, "-s", "-j", "link", "show", "dev", "eth0"])
        return int(json.loads(shown)[0]["stats64"]["tx"]["bytes"])


@contextmanager
def open_switch(rates: Sequence[int]) -> Iterator[list[Port]]:
    """A host for each rate, in Mbit/s; 0: unlimited.

    Raises:
        DemoError: not root, or the kernel lacks something.
    """
    if os.geteuid() != 0:
        raise DemoError("network namespaces need root: run this as root or through sudo")
    switch = f"cafs-sw-{os.getpid()}"
    made: list[str] = []
    try:
        _add_namespace(switch, made)
        run(["ip", "-n", switch, "link", "add", "br0", "type", "bridge"])
        run(["ip", "-n", switch, "link", "set", "br0", "up"])
        yield [_plug_in(switch, number, rate, made) for number, rate in enumerate(rates, 1)]
    finally:
        for namespace in reversed(made):
            with suppress(DemoError):
                run(["ip", "netns", "delete", namespace])


def _add_namespace(name: str, made: list[str]) -> None:
    run(["ip", "netns", "add", name])
    made.append(name)
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def _plug_in(switch: str, number: int, mbit_per_s: int, made: list[str]) -> Port:
    port = Port(f"cafs-h{number}-{os.getpid()}", f"10.214.0.{number}")
    _add_namespace(port.namespace, made)
    near = f"p{number}"
    run(["ip", "-n", switch, "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns",
         port.namespace])  # fmt: skip
    run(["ip", "-n", switch, "link", "set", near, "master", "br0", "up"])
    run(["ip", "-n", port.namespace, "address", "add", f"{port.address}/24", "dev", "eth0"])
    run(["ip", "-n", port.namespace, "link", "set", "eth0", "up"])
    if mbit_per_s:
        for namespace, device in ((switch, near), (port.namespace, "eth0")):
            run(["tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", "rate",
                 f"{mbit_per_s}mbit", "burst", f"{mbit_per_s * BURST_MS * 125}b", "latency",
                 f"{QUEUE_MS}ms"])  # fmt: skip
    return port
