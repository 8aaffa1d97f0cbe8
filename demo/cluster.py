"""A cluster: a host that decides, and hosts that run containers, each a namespace with ``cafs up``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.cafs_command import CafsHome
from demo.containerd import Containerd, serve_containerd, unmount_below
from demo.node import CAFS
from demo.notify import serving
from demo.process import DemoError, run
from demo.relay import relayed
from demo.switch import Port

_MANAGER, _REST, _SCHEDULER, _SEED, _PEER = 65003, 65004, 65010, 65005, 65002
_DECIDING, _WORKING = ("manager", "scheduler", "seed"), ("peer", "mountd", "snapshotter")
PASSWORD = "for this demo only"  # noqa: S105 - of a manager that ends with it


@dataclass(frozen=True, slots=True)
class Bytes:
    """What came to a host, by where it came from."""

    origin: int
    seed: int
    peers: int

    def since(self, before: Bytes) -> Bytes:
        """What came meanwhile."""
        return Bytes(self.origin - before.origin, self.seed - before.seed, self.peers - before.peers)


@dataclass(frozen=True, slots=True)
class Host:
    """One of the cluster's."""

    name: str
    port: Port
    home: CafsHome
    """Drives ``cafs`` there."""
    seed: str
    """HOST:PORT of the cluster's seed."""
    containerd: Containerd | None = None

    def bytes(self) -> Bytes:
        """So far, as its peer counts. Chunks of mounted images come from other peers: seeds have none."""
        below = "seed/" if self.containerd is None else ""
        socket = self.home.place / f"run/{below}peer/peer.sock"
        ask = ["curl", "-sf", "--max-time", "10", "--unix-socket", str(socket), "http://peer/v1/status"]
        status = json.loads(run(ask))
        tasks = status["traffic"].values()
        from_seed = sum(int(task["parents"].get(self.seed, 0)) for task in tasks)
        sources = int(status["chunks"]["source_bytes"]) + int(status["downloads"]["source_bytes"])
        peers = int(status["chunks"]["peer_bytes"]) + int(status["downloads"]["peer_bytes"])
        return Bytes(sources, from_seed, peers - from_seed)


@dataclass(frozen=True, slots=True)
class Cluster:
    """All that runs."""

    control: Host
    hosts: list[Host]
    site: str
    """Where this machine reaches the manager."""
    setup_link: str

    def known_hosts(self) -> list[dict[str, Any]]:
        """What the manager knows, asked as a person would: with an account made by its set-up link."""
        account = {"name": "demo", "password": PASSWORD}
        link = self.setup_link.partition("link=")[2]
        self._ask("setup", {"link": link, **account})
        token = self._ask("sessions", account)["token"]
        found: list[dict[str, Any]] = self._ask("hosts", None, token)["items"]
        return found

    def _ask(self, path: str, document: dict[str, str] | None, token: str = "") -> Any:
        words = ["curl", "-sf", "--max-time", "10", f"{self.site}/api/v1/{path}"]
        words += ["-H", f"Authorization: Bearer {token}"] if token else []
        if document is not None:
            words += ["-H", "Content-Type: application/json", "-d", json.dumps(document)]
        return json.loads(run(words) or "null")


@contextmanager
def open_cluster(place: Path, ports: Sequence[Port], registry: str) -> Iterator[Cluster]:
    """Until the context ends; nothing is left of it.

    Args:
        place: An empty directory, or none, with a short path.
        ports: The host that decides, and those that run containers.
        registry: HOST:PORT, in the clear.
    """
    place.mkdir(parents=True, exist_ok=True)
    control, *workers = ports
    try:
        with ExitStack() as stack, ThreadPoolExecutor(len(workers)) as threads:
            site = f"http://127.0.0.1:{stack.enter_context(relayed(control.inside, control.address, _REST))}"
            deciding = _Up(place / "control", control, registry)
            told = stack.enter_context(deciding.running(_WORKING, _deciding_options(control, site)))
            seed = f"{control.address}:{_SEED}"
            options = [
                "--set", f"schedulers={control.address}:{_SCHEDULER}",
                "--set", f"managers={control.address}:{_MANAGER}",
            ]  # fmt: skip

            def start(number: int) -> Host:
                port = workers[number]
                up = _Up(place / f"host{number + 1}", port, registry)
                own = [*options, "--peer", f"{port.address}:{_PEER}"]
                stack.enter_context(up.running(_DECIDING, own))
                proxies = {CAFS: up.home.place / "run/snapshotter.sock"}
                daemon = stack.enter_context(serve_containerd(up.home.place / "c", port.inside, proxies))
                return Host(f"host {number + 1}", port, up.home, seed, daemon)

            hosts = list(threads.map(start, range(len(workers))))
            yield Cluster(Host("seed", control, deciding.home, seed), hosts, site, _setup_link(told))
    finally:
        unmount_below(place)


def _deciding_options(port: Port, site: str) -> list[str]:
    places = {"manager": _MANAGER, "rest": _REST, "scheduler": _SCHEDULER, "seed": _SEED}
    words = [word for name, number in places.items() for word in (f"--{name}", f"{port.address}:{number}")]
    return [*words, "--set", f"manager_site={site}"]


class _Up:
    """``cafs up`` on one host."""

    def __init__(self, place: Path, port: Port, registry: str) -> None:
        place.mkdir()
        self.home = CafsHome(place, port.inside, (registry,))

    @contextmanager
    def running(self, without: Sequence[str], options: Sequence[str]) -> Iterator[str]:
        """While the context lasts; what it printed."""
        left_out = [word for name in without for word in ("--without", name)]
        log = self.home.place / "up.log"
        with serving(self.home.command("up", *left_out, *options), log, self.home.env):
            yield log.read_text(errors="replace")


def _setup_link(told: str) -> str:
    for word in told.split():
        if "/setup?link=" in word:
            return word
    raise DemoError("the manager told no set-up link")
