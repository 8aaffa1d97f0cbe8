"""A swarm of real processes: ``cafs scheduler``, ``cafs peer``s, and what they say of themselves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from cafs.fetch.local_peer import peer_socket
from tests.support.http import ask
from tests.support.notify import started
from tests.support.patience import PATIENCE_S
from tests.support.ports import chosen_port
from tests.support.program import ROOT, cafs_command


@dataclass
class Process:
    """One of them."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """As a crash ends it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """In order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)


@dataclass
class Peer(Process):
    """``cafs peer``, and the directories of its node."""

    flags: list[str]
    run_dir: Path

    @property
    def socket(self) -> Path:
        """Of the node."""
        return peer_socket(self.run_dir)

    def status(self) -> Any:
        """What it says of itself."""
        return json.loads(trio.run(ask, self.socket, "GET", "/v1/status").body)

    def tasks(self) -> Any:
        """What it holds."""
        return json.loads(trio.run(ask, self.socket, "GET", "/v1/tasks").body)["tasks"]

    def getting(self, url: str, target: Path, *more: str) -> subprocess.Popen[bytes]:
        """``cafs get`` on this node, begun."""
        command = [*cafs_command("get", url, "-o", target, "--quiet", *more), *self.flags]
        return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


@dataclass
class Proxy(Process):
    """``cafs proxy`` of a peer's node."""

    url: str

    def curl(self, url: str, *more: str) -> subprocess.CompletedProcess[bytes]:
        """Through it."""
        command = ["curl", "-sS", "--max-time", "60", "--noproxy", "", "-x", self.url, *more, url]
        return subprocess.run(command, capture_output=True, check=False)


@dataclass
class ManagerProcess(Process):
    """``cafs manager``, on SQLite."""

    services: str
    """HOST:PORT at which services find it."""
    site: str
    """Of its REST."""


@dataclass
class Swarm:
    """Processes that end with the test."""

    folder: Path
    processes: ExitStack = field(default_factory=ExitStack)
    schedulers: list[str] = field(default_factory=list)
    scheduling: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """Those of them that were started here."""
    count: int = 0

    def manager(self, *more: str) -> ManagerProcess:
        """The one; who is started with ``--set=managers=…`` uses it."""
        log = self.folder / "manager.log"
        command = cafs_command("manager", "--listen=127.0.0.1:0", "--rest=127.0.0.1:0", *more)
        process = started([*command, f"--set=cache_dir={self.folder}/m"], log, self.folder / "nm")
        self.processes.callback(_end, process)
        told = r"services on (\S+)[\s\S]*REST on (\S+)"
        found = wait_for(lambda: re.search(told, log.read_text()), "addresses")
        return ManagerProcess(process, log, found[1], found[2])

    def scheduler(
        self, port: int = 0, *more: str, prefix: Sequence[str] = (), host: str = "127.0.0.1"
    ) -> Process:
        """One more, at a free port for 0; peers that are started later use it, too."""
        port = port or chosen_port()
        self.count += 1
        log = self.folder / f"scheduler{self.count}.log"
        command = [*prefix, *cafs_command("scheduler", f"--listen={host}:{port}", *more)]
        process = started(command, log, self.folder / f"n{self.count}")
        self.processes.callback(_end, process)
        wait_for(lambda: "scheduling on " in log.read_text(), "a scheduler")
        chosen = f"{host}:{port}"
        if chosen not in self.schedulers:
            self.schedulers.append(chosen)
        self.scheduling[chosen] = process
        return Process(process, log)

    def peer(
        self,
        name: str,
        *more: str,
        seed: bool = False,
        prefix: Sequence[str] = (),
        listen: str = "127.0.0.1:0",
        meets: bool = True,
    ) -> Peer:
        """One more, which all schedulers that run know by then, unless it never ``meets`` them.

        A peer is ready before that, and in its first seconds goes straight to the source where they are slow.
        """
        folder = self.folder / name
        flags = [
            f"--set=cache_dir={folder}/c",
            f"--set=run_dir={folder}/r",
            f"--set=schedulers={','.join(self.schedulers)}",
            *more,
        ]
        folder.mkdir(exist_ok=True)
        command = [
            *prefix,
            *cafs_command("peer", f"--listen={listen}", *(["--seed"] if seed else [])),
            *flags,
        ]
        process = started(command, folder / "log", folder / "n")
        self.processes.callback(_end, process)
        peer = Peer(process, folder / "log", flags, folder / "r")
        wanted = {address for address, running in self.scheduling.items() if running.poll() is None}
        if meets and wanted:
            wait_for(lambda: wanted <= set(peer.status()["schedulers"]), f"{name} to meet {wanted}")
        return peer

    def proxy(self, peer: Peer, *more: str) -> Proxy:
        """One on the same node."""
        log = peer.run_dir.parent / "proxy.log"
        command = [*cafs_command("proxy", "--listen=127.0.0.1:0"), *peer.flags, *more]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.processes.callback(_end, process)
        found = wait_for(lambda: re.search(r"serving on (http://\S+)", log.read_text()), "a proxy")
        return Proxy(process, log, found[1])


@contextmanager
def swarm(folder: Path) -> Iterator[Swarm]:
    """None yet."""
    made = Swarm(folder)
    with made.processes:
        yield made


def wait_for(found: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    """The first true answer."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        if answer := found():
            return answer
        time.sleep(0.02)  # other processes cannot be waited for
    raise AssertionError(f"{what}: not within {within_s} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
