"""``cafs peer`` as a process that obeys a manager."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.support.manager_client import until
from tests.support.patience import PATIENCE_S
from tests.support.program import cafs_command


class Peer:
    """``cafs peer`` as a process, and its node socket."""

    def __init__(self, folder: Path, *arguments: str, log: IO[bytes] | None = None) -> None:
        """``log``: takes what it says."""
        self._folder = folder
        folders = [f"--set=cache_dir={folder}/c", f"--set=run_dir={folder}/r"]
        self._command = cafs_command("peer", "--listen", "127.0.0.1:0", *folders, *arguments)
        self._socket = f"{folder}/r/peer/peer.sock"
        self.process = subprocess.Popen(self._command, stderr=log or subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        """A socket may lie there from an earlier run."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(self._socket) == 0

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        """Status and document."""
        body = b"" if document is None else json.dumps(document).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: p\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(self._socket)
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        first, _, text = answer.partition(b"\r\n\r\n")
        return int(first.split()[1]), json.loads(text)

    def limit(self, name: str) -> int:
        """As it holds now."""
        return int(self.ask("GET", "/v1/status")[1]["limits"][name])

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0


@contextmanager
def peers(*made: Peer) -> Iterator[None]:
    """Ended whatever happens."""
    try:
        yield
    finally:
        for peer in made:
            if peer.process.poll() is None:
                peer.stop()
