"""``cafs manager`` as a process of its own, which may be killed and started again, and its REST."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from cafs.manager.http.app import API
from tests.support.manager import PASSWORD
from tests.support.patience import PATIENCE_S
from tests.support.peers import wait_for
from tests.support.ports import chosen_port
from tests.support.program import ROOT, cafs_command


@dataclass
class ManagerProcess:
    """One on SQLite in ``folder``, at the same ports each time it is started."""

    folder: Path
    services: int
    rest: int
    token: str = ""
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    @property
    def log(self) -> Path:
        """All that it said."""
        return self.folder / "manager.log"

    @property
    def url(self) -> str:
        """Of its REST."""
        return f"http://127.0.0.1:{self.rest}"

    def start(self) -> None:
        """And wait until it answers."""
        command = cafs_command(
            "manager", f"--listen=127.0.0.1:{self.services}", f"--rest=127.0.0.1:{self.rest}",
            f"--set=cache_dir={self.folder}/manager",
        )  # fmt: skip
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ
            )
        wait_for(self._answers, "a manager")

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=PATIENCE_S, trust_env=False).is_success
        except httpx2.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return False

    def kill(self) -> None:
        """As a crash ends it."""
        self.process.kill()
        self.process.wait()

    def sign_in(self) -> None:
        """As the first administrator, who is made by this."""
        found = wait_for(lambda: re.search(r"setup\?link=(\S+)", self.log.read_text()), "its link")
        link = found[1]
        body = {"link": link, "name": "root", "password": PASSWORD}
        self._send("POST", "/setup", 201, json=body)
        self.token = self._send("POST", "/sessions", 201, json={"name": "root", "password": PASSWORD})[
            "token"
        ]

    def for_commands(self, *scopes: str) -> dict[str, str]:
        """The environment in which ``cafs job`` asks it, with a token of these scopes."""
        body = {"name": "commands", "scopes": list(scopes), "days": 1}
        token = self.call("POST", "/me/tokens", 201, json=body)["token"]
        return {"CAFS_MANAGER_URL": self.url, "CAFS_MANAGER_TOKEN": token}

    def call(self, method: str, path: str, code: int = 200, **arguments: Any) -> Any:
        """Of REST; the document."""
        headers = {"Authorization": f"Bearer {self.token}", **arguments.pop("headers", {})}
        return self._send(method, path, code, headers=headers, **arguments)

    def _send(self, method: str, path: str, code: int, **arguments: Any) -> Any:
        answer = httpx2.request(
            method, f"{self.url}{API}{path}", timeout=PATIENCE_S, trust_env=False, **arguments
        )
        assert answer.status_code == code, answer.text
        return answer.json()

    def job(self, job_id: int) -> Any:
        """How far it is."""
        return self.call("GET", f"/jobs/{job_id}")

    def ended(self, job_id: int) -> Any:
        """The job, once it has ended."""
        return wait_for(
            lambda: job if (job := self.job(job_id))["ended_at"] else None, f"the end of job {job_id}"
        )


@contextmanager
def manager_process(folder: Path) -> Iterator[ManagerProcess]:
    """Running, with an administrator signed in."""
    made = ManagerProcess(folder, chosen_port(), chosen_port())
    made.start()
    try:
        made.sign_in()
        yield made
    finally:
        made.kill()
