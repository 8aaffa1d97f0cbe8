"""A mount server of a test's making: the documented socket, and real EROFS files behind a real FUSE mount.

What it answers can be scripted: refusals, silence, another index for a layer. Everything else is as
docs/mountd.md says. The FUSE mount can be lost and made anew, as when a mount server died with its
supervisor.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

from cafs.control_socket.protocol import STATUS_OF, Reason
from tests.support.mounts import flat_mount

IMAGE = "registry.test/app:v1"


def digest_of(text: str) -> str:
    """A digest for whatever needs one."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def labels_for(layer: str, target: str, image: str = IMAGE) -> dict[str, str]:
    """Those of a Prepare that may become lazy."""
    prefix = "containerd.io/snapshot"
    return {
        f"{prefix}.ref": digest_of(target),
        f"{prefix}/cri.image-ref": image,
        f"{prefix}/cri.manifest-digest": digest_of("manifest of " + image),
        f"{prefix}/cri.layer-digest": digest_of(layer),
    }


def make_erofs(place: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """An EROFS image of what ``fill`` puts into a directory."""
    tree, file = place / f"{name}.tree", place / f"{name}.erofs"
    tree.mkdir(parents=True)
    fill(tree)
    subprocess.run(["mkfs.erofs", "--quiet", "-T1", file, tree], check=True, capture_output=True)
    return file


@dataclass
class FakeMountd:
    """Layers by name; a layer's digest is ``digest_of`` its name."""

    run: Path
    files: Mapping[str, Path]
    refused: dict[str, Reason] = field(default_factory=dict)
    """What is said of a layer instead of showing it."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Layers that were converted anew: they are shown as these other ones."""
    hold: threading.Event = field(default_factory=threading.Event)
    """Cleared: adding a layer waits."""
    asked_to_add: threading.Event = field(default_factory=threading.Event)
    """Set when somebody asks for a layer."""
    shown: set[str] = field(default_factory=set)
    """Names (of indexes) that were added and not removed."""
    requests: list[str] = field(default_factory=list)
    _mount: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.hold.set()

    @property
    def socket(self) -> Path:
        return self.run / "mountd.sock"

    def name_of(self, layer: str) -> str:
        """Of its index."""
        return hashlib.sha256(f"index of {layer}".encode()).hexdigest()

    def mount(self) -> None:
        """Show the files through FUSE."""
        target = self.run / "fuse"
        if target.exists():
            target.rmdir()
        Path(f"{target}.pids").unlink(missing_ok=True)
        self._mount.enter_context(flat_mount(target, list(self.files.values())))

    def lose_mount(self) -> None:
        """The FUSE mount goes, with whoever served it."""
        self._mount.close()

    @contextmanager
    def serving(self) -> Iterator[FakeMountd]:
        """Answer on the socket, and have the mount."""
        self.run.mkdir(parents=True, exist_ok=True)
        self.mount()
        fake = self

        class Handler(_Handler):
            server_of_layers = fake

        self.socket.unlink(missing_ok=True)
        try:
            with ThreadingUnixStreamServer(str(self.socket), Handler) as server:
                server.daemon_threads = True
                thread = threading.Thread(target=server.serve_forever, args=(0.05,))
                thread.start()
                try:
                    yield self
                finally:
                    self.hold.set()
                    server.shutdown()
                    thread.join()
        finally:
            self.socket.unlink(missing_ok=True)
            self.lose_mount()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """What is said to one request."""
        self.requests.append(f"{method} {path}")
        if method == "GET":
            return 200, {"layers": [{"name": name} for name in sorted(self.shown)]}
        if method == "DELETE":
            self.shown.discard(path.rpartition("/")[2])
            return 204, None
        self.asked_to_add.set()
        assert self.hold.wait(60)
        return self._add(json.loads(body))

    def _add(self, wanted: dict[str, str]) -> tuple[int, object]:
        layer = next((name for name in self.files if digest_of(name) == wanted["layer"]), None)
        reason = self.refused.get(layer or "", Reason.NOT_CONVERTED if layer is None else None)
        if layer is None or reason is not None:
            assert reason is not None
            return STATUS_OF[reason], {"error": f"the fake says {reason}", "reason": reason}
        layer = self.renamed.get(layer, layer)
        self.shown.add(self.name_of(layer))
        size = self.files[layer].stat().st_size
        path = f"layers/{list(self.files).index(layer)}"
        return 200, {"name": self.name_of(layer), "path": path, "virtual_bytes": size,
                     "data_bytes": size, "hides": False}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_layers: FakeMountd

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, document = self.server_of_layers.answer(self.command, self.path, body)
        content = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _serve

    def address_string(self) -> str:
        return "a unix socket"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test looks at ``requests``."""


def whiteout(path: Path) -> None:
    """What hides a file of a layer below."""
    os.mknod(path, 0o600 | 0o020000, os.makedev(0, 0))


def socket_is_live(path: Path) -> bool:
    """Whether somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
