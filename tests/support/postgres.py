"""A real PostgreSQL (Debian's) in a temporary folder, on a free port, as an unprivileged user.

Nothing of it is durable, which only makes it quicker. Ended by its own pid; its children, which come and go
with connections, do not carry the mark by which tests look for what they left behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.support.leaks import MARK
from tests.support.patience import PATIENCE_S
from tests.support.ports import chosen_port

_NOBODY = 65534
_TRIES = 3
_QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60")


@dataclass
class Postgres:
    """A running server."""

    folder: Path
    port: int
    password: str
    process: subprocess.Popen[bytes] = field(repr=False)

    def url(self, database: str = "postgres") -> str:
        """As ``manager_database`` takes it."""
        return f"postgresql://cafs:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """An empty one; its name."""
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def ask(self, database: str, statement: str) -> list[Any]:
        """Rows of a query."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            return connection.execute(statement).fetchall()

    def tell(self, database: str, statement: str) -> None:
        """Have something done that has no rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it (fast: connections are cut) and wait for its end."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)

    def start_again(self) -> None:
        """At the same port."""
        self.process = _start(self.folder, self.port)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """While the context lasts."""
    # Not below the run's own folder, which nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="cafs-pg-", dir="/tmp"))
    password = secrets.token_hex(8)
    try:
        _make(folder, password)
        server = _started(folder, password)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.stop(signal.SIGQUIT)  # at once: nothing of it is kept
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_nobody() -> list[str]:
    """What begins a command: PostgreSQL refuses to run as root.

    A program, and not Popen's ``user``: with that Popen forks, which gRPC's threads do not survive.
    """
    if os.geteuid():
        return []
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != MARK} | {"LC_ALL": "C.UTF-8"}


def _program(name: str) -> str:
    """Debian keeps them by version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    if not found:
        raise RuntimeError(f"{name} is missing: apt-get install postgresql")
    return str(found[-1])


def _make(folder: Path, password: str) -> None:
    word = folder / "password"
    word.write_text(password)
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
        os.chown(word, _NOBODY, _NOBODY)
    subprocess.run(
        [*_as_nobody(), _program("initdb"), "--pgdata", folder / "data", "--username=cafs",
         f"--pwfile={word}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"],
        cwd=folder, check=True, capture_output=True, timeout=PATIENCE_S, env=_environment(),
    )  # fmt: skip


def _started(folder: Path, password: str) -> Postgres:
    """At a port that was free a moment ago; whoever took it since then costs another try."""
    for _ in range(_TRIES):
        port = chosen_port()
        try:
            return Postgres(folder, port, password, _start(folder, port))
        except RuntimeError as e:
            failure = e
    raise failure


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start it, and wait until it says that it takes connections, in the file made for that."""
    options = [word for option in _QUICK for word in ("-c", option)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_as_nobody(), _program("postgres"), "-D", folder / "data", "-p", str(port), "-k", folder,
             "-c", "listen_addresses=127.0.0.1", *options],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(),
        )  # fmt: skip
    status = folder / "data" / "postmaster.pid"
    for _ in range(PATIENCE_S * 50):
        if process.poll() is not None:
            break
        lines = status.read_text().splitlines() if status.exists() else []
        if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
            return process
        try:
            process.wait(0.02)  # a file cannot be waited for; the end of the process can
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait(PATIENCE_S)
    raise RuntimeError(f"postgres did not start:\n{log.read_text()}")
