"""An origin, a scheduler and peers as real processes, wherever a case wants them."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cafs.core.swarm.chunk_request import CHUNKS_PATH, HAVE_HEADER, ChunkWish, cut_answer
from demo.cafs_command import CafsHome
from demo.notify import serving
from demo.process import DemoError, running

_START_S = 20.0
_LONG_AGO_S = 30 * 86_400
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """nginx, and what it has sent."""

    url: str
    log: Path

    def sent_bytes(self) -> int:
        """Of bodies, in answers that have ended."""
        return sum(int(line.split(" ")[1]) for line in self.log.read_text().splitlines())


@contextmanager
def open_origin(folder: Path, address: str = "127.0.0.1", inside: Sequence[str] = ()) -> Iterator[Origin]:
    """nginx that serves ``folder/www``, whose files are a month old."""
    for path in (folder / "www").iterdir():
        changed = time.time() - _LONG_AGO_S
        os.utime(path, (changed, changed))
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;"
        "events {} user root;"
        "http { log_format sent '$uri $body_bytes_sent';"
        f"access_log {folder}/sent.log sent; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; sendfile on;"
        f"keepalive_requests 100000; server {{ listen {address}:{port}; root {folder}/www; }} }}"
    )
    command = [*inside, "nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with running(command, folder / "nginx.out"):
        _wait_for(folder / "nginx.pid", r"(\d)")
        yield Origin(f"http://{address}:{port}", folder / "sent.log")


@dataclass
class Node:
    """A peer and its host's ``cafs``."""

    home: CafsHome
    pid: int

    @property
    def socket(self) -> Path:
        return self.home.place / "run/peer/peer.sock"

    def status(self) -> dict[str, Any]:
        """What the peer says of itself."""
        with _asked(self.socket, "GET", "/v1/status", b"") as answer:
            return dict(json.loads(answer.read()))

    def fetch(self, url: str, first_bytes: int | None = None, digest: str | None = None) -> int:
        """Read a content, or so much of it, through the peer, and throw the bytes away; returns how many."""
        wish: dict[str, Any] = {"url": url} | ({"digest": digest} if digest else {})
        if first_bytes is not None:
            wish["range"] = [0, first_bytes - 1]
        with _asked(self.socket, "POST", "/v1/download", json.dumps(wish).encode()) as answer:
            buffer, total = bytearray(_READ_BYTES), 0
            while count := answer.readinto(buffer):
                total += count
        return total


@dataclass
class Cluster:
    """Processes that end with the context."""

    folder: Path
    processes: ExitStack = field(default_factory=ExitStack)
    scheduler: str = ""
    insecure: tuple[str, ...] = ()
    """Registries without TLS that peers started from now on may ask."""
    settings: tuple[str, ...] = ()
    """Further ones of peers started from now on, as ``NAME=VALUE``."""

    def start_scheduler(self, address: str = "127.0.0.1", inside: Sequence[str] = ()) -> None:
        """For the peers that are started later."""
        home = CafsHome(self.folder / "scheduler", tuple(inside))
        log = self._log("scheduler")
        command = home.command("scheduler", "--listen", f"{address}:0")
        self.processes.enter_context(serving(command, log, home.env))
        self.scheduler = f"{address}:{_wait_for(log, r'scheduling on [^ ]+:([0-9]+)')}"

    def start_peer(
        self, name: str, address: str = "127.0.0.1", inside: Sequence[str] = (), *, seed: bool = False
    ) -> Node:
        """One more, until the cluster ends."""
        return self.processes.enter_context(self.peer(name, address, inside, seed=seed))

    @contextmanager
    def peer(
        self, name: str, address: str = "127.0.0.1", inside: Sequence[str] = (), *, seed: bool = False
    ) -> Iterator[Node]:
        """One more, until the context ends; nothing of it runs any more then, so its files may go."""
        home = CafsHome(self.folder / name, tuple(inside), self.insecure)
        options = ["--set", f"schedulers={self.scheduler}", "--listen", f"{address}:0"]
        options += [word for setting in self.settings for word in ("--set", setting)]
        command = home.command("peer", *options, *(["--seed"] if seed else []))
        with serving(command, self._log(name), home.env) as process:
            yield Node(home, process.pid)

    def start_proxy(self, node: Node, settings: Sequence[str]) -> str:
        """``cafs proxy`` on a peer's host; returns HOST:PORT."""
        log = node.home.place / "proxy.log"
        options = [word for setting in settings for word in ("--set", setting)]
        command = node.home.command("proxy", "--listen", "127.0.0.1:0", *options)
        self.processes.enter_context(running(command, log, node.home.env))
        return _wait_for(log, r"serving on http://(\S+)")

    def _log(self, name: str) -> Path:
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return self.folder / name / "log"


@contextmanager
def open_cluster(folder: Path) -> Iterator[Cluster]:
    """Nothing runs yet."""
    cluster = Cluster(folder)
    with cluster.processes:
        yield cluster


def get_everywhere(nodes: Sequence[Node], url: str) -> float:
    """``cafs get`` on all hosts at once; seconds until the last one has its file."""
    began = time.perf_counter()
    downloads = [
        subprocess.Popen(
            node.home.command("get", url, "-o", node.home.place / "out", "--quiet"), env=node.home.env
        )
        for node in nodes
    ]
    codes = [download.wait() for download in downloads]
    if any(codes):
        raise DemoError(f"cafs get failed on some host: exit codes {codes}")
    return time.perf_counter() - began


class ChunkReader:
    """Asks a host's peer for chunks over one kept connection, as a mount server does."""

    def __init__(self, node: Node) -> None:
        self._connection = _UnixConnection(node.socket)

    def read(self, wish: ChunkWish) -> int:
        """Returns how many of the chunks it gave."""
        self._connection.request("POST", CHUNKS_PATH, wish.encode())
        answer = self._connection.getresponse()
        frames = cut_answer(answer.headers.get(HAVE_HEADER, "="), answer.read(), wish.refs)
        return sum(frame is not None for frame in frames)

    def close(self) -> None:
        self._connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("peer")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@contextmanager
def _asked(path: Path, method: str, target: str, body: bytes) -> Iterator[http.client.HTTPResponse]:
    connection = _UnixConnection(path)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        if answer.status not in {http.client.OK, http.client.PARTIAL_CONTENT}:
            raise DemoError(f"the peer answered {answer.status}: {answer.read()[:200]!r}")
        yield answer
    finally:
        connection.close()


def _wait_for(file: Path, pattern: str) -> str:
    """What the pattern's group matches, once it does."""
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up:
        if file.exists() and (found := re.search(pattern, file.read_text())):
            return found[1]
        time.sleep(0.02)
    raise DemoError(f"{file} does not say what was expected")
