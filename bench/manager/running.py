"""``cafs manager`` on SQLite as a process of its own, and its REST as an administrator."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from demo.process import DemoError, running
from demo.relay import relayed

_START_S = 60.0
_LOOK_S, _ASK_EVERY_S = 0.02, 0.1
_TOLD = r"setup\?link=(\S+)[\s\S]*metrics on port (\d+)[\s\S]*services on (\S+)[\s\S]*REST on (\S+)"


class Account(NamedTuple):
    """Somebody who may sign in."""

    name: str
    password: str


ROOT = Account("root", "correct horse battery")


@dataclass(frozen=True, slots=True)
class RunningManager:
    """One that serves."""

    pid: int
    services: str
    """HOST:PORT."""
    rest: httpx2.Client
    """Signed in."""
    metrics_port: int
    site: str
    """``http://HOST:PORT`` of REST and the console."""

    def call(self, method: str, path: str, **more: Any) -> Any:
        """What REST answers.

        Raises:
            httpx2.HTTPStatusError: it is no success.
        """
        return self.rest.request(method, path, **more).raise_for_status().json()

    def await_hosts(self, count: int, patience_s: float) -> None:
        """Until so many hosts of the first cluster are active.

        Raises:
            DemoError: they did not come.
        """
        self.wait(
            lambda: self.call("GET", "/clusters/1")["active_hosts"] >= count, f"{count} hosts", patience_s
        )

    def wait(self, true: Callable[[], bool], what: str, patience_s: float) -> None:
        """Until something is true.

        Raises:
            DemoError: it did not become so in time.
        """
        give_up = time.monotonic() + patience_s
        while not true():
            if time.monotonic() > give_up:
                raise DemoError(f"the manager has not seen {what} within {patience_s:.0f} s")
            time.sleep(_ASK_EVERY_S)


@contextmanager
def open_manager(
    folder: Path, address: str = "127.0.0.1", inside: Sequence[str] = ()
) -> Iterator[RunningManager]:
    """Run one until the context ends.

    Args:
        folder: For its database and log.
        address: Where it listens.
        inside: Words before its command; what runs in another network is reached by a relay.
    """
    folder.mkdir(exist_ok=True)
    command = [*inside, sys.executable, "-m", "cafs", "manager", f"--listen={address}:0"]
    command += ["--rest=127.0.0.1:0", "--metrics=127.0.0.1:0", f"--set=cache_dir={folder}/m"]
    log = folder / "manager.log"
    with ExitStack() as stack:
        process = stack.enter_context(running(command, log))
        link, metrics_port, services, site = _wait_for(process, log, _TOLD).groups()
        if inside:
            port = stack.enter_context(relayed(inside, "127.0.0.1", int(site.rpartition(":")[2])))
            site = f"http://127.0.0.1:{port}"
        rest = stack.enter_context(httpx2.Client(base_url=f"{site}/api/v1", trust_env=False, timeout=30))
        _sign_in(rest, link)
        yield RunningManager(process.pid, services, rest, int(metrics_port), site)


def _sign_in(rest: httpx2.Client, link: str) -> None:
    whom = ROOT._asdict()
    rest.post("/setup", json={"link": link, **whom}).raise_for_status()
    token = rest.post("/sessions", json=whom).raise_for_status().json()["token"]
    rest.headers["Authorization"] = f"Bearer {token}"


def _wait_for(process: subprocess.Popen[bytes], log: Path, pattern: str) -> re.Match[str]:
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up and process.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found
        time.sleep(_LOOK_S)
    raise DemoError(f"the manager did not start:\n{log.read_text()}")
