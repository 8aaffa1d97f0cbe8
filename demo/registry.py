"""A real docker-registry on a free directory, in a network namespace or on the machine's loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.link import Link
from demo.process import DemoError, run, running

PORT = 5000
LOOPBACK = "127.0.0.1"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - only in a namespace that has no way out
START_S = 20.0

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http: {{addr: "{address}:{port}"}}
"""


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that answers, and the words by which its side of the network is entered."""

    enter: tuple[str, ...]
    local: str
    """HOST:PORT as seen from its own side."""

    def push(self, layout: Path, tag: str, repository: str) -> None:
        """Copy image ``tag`` of an OCI layout to ``repository``, which has the form NAME:TAG."""
        copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
        run([*self.enter, *copy, f"oci:{layout}:{tag}", f"docker://{self.local}/{repository}"])


@contextmanager
def serve_far_registry(place: Path, link: Link) -> Iterator[Registry]:
    """Run docker-registry on the server's side of ``link``, as on another machine.

    It keeps its storage in memory: when the client's page cache is dropped, this machine's is, and a registry
    that is asked for an image has that image in its own.
    """
    storage = place / "registry"
    storage.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "mode=700", "registry", storage])
    try:
        with serve_registry(place, link.on_server(), ANY_ADDRESS) as registry:
            yield registry
    finally:
        run(["umount", storage])


@contextmanager
def serve_registry(
    place: Path, enter: Sequence[str] = (), address: str = LOOPBACK, port: int = PORT
) -> Iterator[Registry]:
    """Run docker-registry with its storage below ``place`` until the context ends.

    Args:
        place: An existing directory of this run.
        enter: Words before each command on the registry's side, such as ``nsenter ...``.
        address: What it listens on; ``ANY_ADDRESS`` in a namespace of its own.
        port: TCP port.
    """
    config = place / "registry.yml"
    config.write_text(_CONFIG.format(storage=place / "registry", address=address, port=port))
    log = place / "registry.log"
    with running([*enter, "docker-registry", "serve", str(config)], log) as process:
        registry = Registry(tuple(enter), f"127.0.0.1:{port}")
        _await_answer(registry, process, log)
        yield registry


def _await_answer(registry: Registry, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until ``/v2/`` answers. The registry has no other sign that it is ready, so it is asked."""
    deadline = time.monotonic() + START_S
    ask = [*registry.enter, "curl", "-sf", "-o", "/dev/null", f"http://{registry.local}/v2/"]
    while subprocess.run(ask, check=False, capture_output=True).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise DemoError(f"docker-registry did not start: {' '.join(said) or 'it said nothing'}")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
