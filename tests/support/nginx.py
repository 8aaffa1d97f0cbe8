"""nginx as an origin: serves a folder, and tells how much of it was sent."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_S = 30


@dataclass
class Served:
    """A process that listens."""

    host: str
    log: Path

    @property
    def url(self) -> str:
        """``http://HOST:PORT``."""
        return f"http://{self.host}"

    def sent_bytes(self, path: str) -> int:
        """Of bodies, for requests of this path; nginx writes a line when a request has ended."""
        lines = (line.split(" ") for line in self.log.read_text().splitlines())
        return sum(int(count) for asked, count in lines if asked == path)

    def requests(self) -> int:
        """Answered so far."""
        return len(self.log.read_text().splitlines())


@contextmanager
def nginx(
    folder: Path, *, address: str = "127.0.0.1", more: str = "", prefix: Sequence[str] = ()
) -> Iterator[Served]:
    """nginx that serves ``folder/www``, with an index page.

    Args:
        folder: Its files, too.
        address: Where it listens, on a free port.
        more: Directives of its server.
        prefix: A program that runs it, such as ``link.inside``.
    """
    (folder / "www").mkdir(exist_ok=True)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    access = folder / "access.log"
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;"
        "events {} user root;"
        "http { log_format sent '$uri $body_bytes_sent';"
        f"access_log {access} sent; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; sendfile on;"
        f"server {{ listen {address}:{port}; root {folder}/www; autoindex on; default_type text/html;"
        f"{more} }} }}"
    )
    process = subprocess.Popen(
        [*prefix, "nginx", "-c", configuration, "-e", folder / "error.log"], stderr=subprocess.DEVNULL
    )
    try:
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up and not (folder / "nginx.pid").exists():
            time.sleep(0.02)
        yield Served(f"{address}:{port}", access)
    finally:
        process.terminate()
        process.wait(10)
