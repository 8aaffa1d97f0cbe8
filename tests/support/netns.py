"""A network namespace behind a link of limited speed, for programs that should feel far away.

``link.inside`` runs a program in it; there, ``link.address`` is this side. Needs root, iproute2 and
nsenter. Mounts made inside are seen outside: only the network is another one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """The near end of the link."""

    namespace: str
    address: str
    """Listen here to be reached from inside."""

    @property
    def inside(self) -> list[str]:
        """Put before an argument list to run it inside."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]


@contextmanager
def limited_link(mbit_per_s: int = 200, number: int | None = None) -> Iterator[Link]:
    """A fresh namespace with a veth link of ``mbit_per_s`` in each direction.

    Args:
        mbit_per_s: Megabits a second.
        number: Chooses names and addresses; by default from the process id.
    """
    number = (os.getpid() if number is None else number) % 16384
    namespace = f"cafs-{number}"
    near, far = f"cafsn{number}", f"cafsf{number}"
    network = f"10.{100 + number // 64 // 64}.{number // 64 % 64}.{number % 64 * 4}"
    head, _, last = network.rpartition(".")
    near_address, far_address = f"{head}.{int(last) + 1}", f"{head}.{int(last) + 2}"
    within = ["ip", "netns", "exec", namespace]
    _run("ip", "netns", "add", namespace)
    try:
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", namespace)
        _run("ip", "address", "add", f"{near_address}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run(*within, "ip", "address", "add", f"{far_address}/30", "dev", far)
        _run(*within, "ip", "link", "set", far, "up")
        _run(*within, "ip", "link", "set", "lo", "up")
        # A burst of 5 ms, and a queue of 100 ms: about what a switch port has.
        limit = [
            "root",
            "tbf",
            "rate",
            f"{mbit_per_s}mbit",
            "burst",
            f"{mbit_per_s * 625}b",
            "latency",
            "100ms",
        ]
        _run("tc", "qdisc", "add", "dev", near, *limit)
        _run(*within, "tc", "qdisc", "add", "dev", far, *limit)
        yield Link(namespace, near_address)
    finally:
        _run("ip", "netns", "delete", namespace)


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
