"""Several hosts at once: a lazily started container on each, and one file for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from demo.cluster import Bytes, Cluster, Host
from demo.image import ANSWER
from demo.node import CAFS
from demo.process import DemoError, run
from demo.switch import Port


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came of it on one host."""

    name: str
    seconds: float | None
    """None: nobody waited for this host."""
    came: Bytes


@dataclass(frozen=True, slots=True)
class Together:
    """What came of it on all hosts."""

    hosts: list[Arrived]
    origin_sent_bytes: int
    """That left the registry's port, headers and all."""


def start_containers(cluster: Cluster, at_registry: Port, reference: str) -> Together:
    """Pull the image and run its program, on all hosts at once.

    Raises:
        DemoError: it fails somewhere, or a program gives a wrong answer.
    """

    def start(host: Host) -> None:
        daemon = host.containerd
        assert daemon is not None
        own = ("--address", daemon.address, "--snapshotter", CAFS)
        run(host.home.command("--quiet", "pull", *own, reference), env=host.home.env)
        answer = run(daemon.run_command(CAFS, ["--rm"], reference, "demo"), timeout_s=120).strip()
        if answer != ANSWER:
            raise DemoError(f"the container on {host.name} answered {answer!r} instead of {ANSWER!r}")

    return _together(cluster, at_registry, start)


def get_file(cluster: Cluster, at_registry: Port, url: str, digest: str) -> Together:
    """``cafs get`` on all hosts at once.

    Raises:
        DemoError: it fails somewhere.
    """

    def get(host: Host) -> None:
        target = host.home.place / "file"
        run(host.home.command("--quiet", "get", url, "-o", target, "--digest", digest), env=host.home.env)

    return _together(cluster, at_registry, get)


def _together(cluster: Cluster, at_registry: Port, do: Callable[[Host], None]) -> Together:
    everybody = [*cluster.hosts, cluster.control]
    before, sent = [host.bytes() for host in everybody], at_registry.sent_bytes()
    seconds = [*_timed(cluster.hosts, do), None]
    return Together(
        [
            Arrived(host.name, took, host.bytes().since(then))
            for host, took, then in zip(everybody, seconds, before, strict=True)
        ],
        at_registry.sent_bytes() - sent,
    )


def _timed(hosts: Sequence[Host], do: Callable[[Host], None]) -> list[float]:
    together = threading.Barrier(len(hosts))

    def one(host: Host) -> float:
        together.wait()
        began = time.monotonic()
        do(host)
        return time.monotonic() - began

    with ThreadPoolExecutor(len(hosts)) as threads:
        return list(threads.map(one, hosts))
