"""A process that is ready for pulls tells the mount server of the image once, before all else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import SimpleQueue
from socketserver import ThreadingUnixStreamServer

import pytest

from cafs.control_socket.protocol import ANNOUNCED_PATH
from tests.support.patience import PATIENCE_S
from tests.support.program import cafs_command
from tests.support.snapshotter import RunningSnapshotter, running_snapshotter


@pytest.fixture
def snapshotter(short_tmp_path: Path) -> Iterator[RunningSnapshotter]:
    with running_snapshotter(short_tmp_path) as running:
        yield running


@pytest.fixture
def announced(snapshotter: RunningSnapshotter) -> Iterator[SimpleQueue[str]]:
    """What a mount server, which only listens, is told."""
    told: SimpleQueue[str] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == ANNOUNCED_PATH
            told.put(json.loads(body)["image"])
            self.send_response(204)
            self.end_headers()

        def address_string(self) -> str:
            return "a unix socket"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    snapshotter.mountd.parent.mkdir(parents=True, exist_ok=True)
    with ThreadingUnixStreamServer(str(snapshotter.mountd), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent_containerd(address: Path) -> Iterator[None]:
    """One that does not answer; when it has gone, calls fail at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen()
        yield
    address.unlink()


@pytest.mark.parametrize(
    "options",
    [("--snapshotter", "cafs"), ("--",)],  # what comes after the last is known to who has parsed it
    ids=["foreseen", "parsed"],
)
def test_the_mount_server_hears_of_it_once(
    snapshotter: RunningSnapshotter, announced: SimpleQueue[str], options: tuple[str, ...]
) -> None:
    address = snapshotter.folder / "c.sock"
    environment = {**os.environ, "CAFS_RUN_DIR": str(snapshotter.run)}
    for image in ("registry.test/app:v1", "registry.test/app:v2"):
        words = cafs_command("pull", image, "--address", address, *options)
        with silent_containerd(address):
            pull = subprocess.Popen(words, env=environment)
            told = announced.get(timeout=PATIENCE_S)
        assert (told, pull.wait(PATIENCE_S)) == (image, 1)
    assert announced.empty()
