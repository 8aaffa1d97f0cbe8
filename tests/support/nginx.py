"""nginx as an origin: serves a folder, and tells how much of it was sent."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.patience import PATIENCE_S
from tests.support.ports import chosen_port


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
    process, port = _started(folder, address, more, prefix)
    try:
        yield Served(f"{address}:{port}", folder / "access.log")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _started(
    folder: Path, address: str, more: str, prefix: Sequence[str]
) -> tuple[subprocess.Popen[bytes], int]:
    """And its port."""
    port = chosen_port()
    (folder / "nginx.conf").write_text(_configuration(folder, f"{address}:{port}", more))
    process = subprocess.Popen(
        [*prefix, "nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"], stderr=subprocess.DEVNULL
    )
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up and process.poll() is None:
        if (folder / "nginx.pid").exists():  # written once it listens
            return process, port
        time.sleep(0.02)  # a file cannot be waited for
    process.kill()
    process.wait()
    raise RuntimeError(f"nginx did not start:\n{(folder / 'error.log').read_text()}")


def _configuration(folder: Path, listen: str, more: str) -> str:
    return (
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;"
        "events {} user root;"
        "http { log_format sent '$uri $body_bytes_sent';"
        f"access_log {folder}/access.log sent; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; sendfile on;"
        f"server {{ listen {listen}; root {folder}/www; autoindex on; default_type text/html;"
        f"{more} }} }}"
    )
