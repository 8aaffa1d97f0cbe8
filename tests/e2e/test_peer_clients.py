"""Programs that know nothing of CAFS, on two nodes of a swarm: podman, docker's requests, pip, curl, a hub's.

Each fetches on the first node. Then the content's origin refuses it, and the same program gets it on the
second node, whose peer has asked no origin for a byte.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.test_proxy_clients import cafs_proxy, curl, mirrors_file, push_image, skopeo
from tests.support.faults import FaultyRegistry, Status
from tests.support.nginx import Served, nginx
from tests.support.peers import Peer, swarm
from tests.support.registry import Registry

BODY = os.urandom((3 << 20) + 12345)
"""Longer than what is not worth a second piece."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Node:
    """A host: its peer, and the proxy that its programs use."""

    peer: Peer
    proxy: Served

    @contextmanager
    def fetching_from_hosts(self) -> Iterator[None]:
        """All of BODY comes from other hosts meanwhile, and nothing from an origin."""
        before = self.peer.status()["downloads"]
        yield
        after = self.peer.status()["downloads"]
        assert after["source_bytes"] == before["source_bytes"]
        assert after["peer_bytes"] - before["peer_bytes"] >= len(BODY)


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks of the hub: a file's size and digest, and a redirect to its storage."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.refuses = False
        """Its files. What it says of them it still says."""
        self.sent: list[str] = []
        """Paths of answers with a body."""


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self.server.refuses:
            self.send_error(503)
            return
        self._answer()
        if self._is_stored:
            self.server.sent.append(self.path)
            self.wfile.write(BODY)

    @property
    def _is_stored(self) -> bool:
        return self.path.startswith("/storage/")

    def _answer(self) -> None:
        etag = hashlib.sha256(BODY).hexdigest()
        self.send_response(200 if self._is_stored else 302)
        if not self._is_stored:
            self.send_header("Location", f"http://localhost:{self.server.server_port}/storage/f?sig=1")
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(BODY)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Cache-Control", "max-age=604800")  # what the hub's storage says
        self.send_header("Content-Length", str(len(BODY)) if self._is_stored else "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Site:
    """Everything that the tests of this module share."""

    nodes: tuple[Node, Node]
    registry: FaultyRegistry
    files: Served
    www: Path
    hub: Hub

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """No origin gives what is worth sharing; manifests and an index of wheels still come."""
        self.registry.fail(Status(503), path="/blobs/")
        self.hub.refuses = True
        (self.www / "off").touch()
        try:
            yield
        finally:
            (self.www / "off").unlink()
            self.hub.refuses = False
            self.registry.heal()


@pytest.fixture(scope="module")
def site(docker_registry: Registry) -> Iterator[Site]:
    """A scheduler, a seed, two nodes with a peer and a proxy each, and origins."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="")))
        registry = stack.enter_context(FaultyRegistry(docker_registry.host))
        refusal = f"if (-f {folder}/www/off) {{ return 503; }}"
        cached = f'location ~ \\.(whl|bin)$ {{ add_header Cache-Control "max-age=3600"; {refusal} }}'
        files = stack.enter_context(nginx(folder, more=cached))
        hub = stack.enter_context(serving(Hub()))
        hosts = stack.enter_context(swarm(folder))
        hosts.scheduler()
        hosts.peer("seed", seed=True)
        peers = [hosts.peer(name) for name in ("a", "b")]
        hub_hosts = f"127.0.0.1:{hub.server_port},localhost:{hub.server_port}"
        settings = (
            f"proxy_allow={registry.host},{files.host},{hub_hosts}",
            f"proxy_registry={registry.host}",
            f"proxy_mirrors=hf=http://127.0.0.1:{hub.server_port}",
        )
        nodes = []
        for peer in peers:
            own = [flag.removeprefix("--set=") for flag in peer.flags]
            proxy = cafs_proxy(peer.run_dir.parent, *settings, *own)
            nodes.append(Node(peer, stack.enter_context(proxy)))
        yield Site((nodes[0], nodes[1]), registry, files, folder / "www", hub)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Until the end of the block."""
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def push_body(folder: Path, registry: Registry, name: str) -> None:
    (folder / "body").write_bytes(BODY)
    push_image(folder, registry, name)


def blobs_in(folder: Path) -> list[bytes]:
    """What skopeo wrote into a folder, each held to its own name."""
    blobs = [path for path in folder.iterdir() if len(path.name) == 64]
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)
    return [path.read_bytes() for path in blobs]


def podman(folder: Path, *arguments: str, env: dict[str, str]) -> str:
    """Debian's podman, which keeps all it has below ``folder``, whose path must be short."""
    own = [f"--root={folder}/root", f"--runroot={folder}/run", f"--tmpdir={folder}/tmp"]
    own.append(f"--network-config-dir={folder}/net")
    plain = ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]
    done = subprocess.run(
        ["podman", *own, *plain, *arguments], env={**os.environ, **env}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_podman_pulls_through_its_mirror(
    tmp_path: Path, short_tmp_path: Path, site: Site, docker_registry: Registry
) -> None:
    """``registries.conf``, as docs/proxy.md says."""
    push_body(tmp_path, docker_registry, "peer/podman:v1")
    image = f"{site.registry.host}/peer/podman:v1"

    def pull(node: Node, name: str) -> None:
        env = mirrors_file(tmp_path / name, site.registry.host, node.proxy.host)
        podman(short_tmp_path / name, "pull", "--quiet", image, env=env)
        root = podman(short_tmp_path / name, "image", "mount", image, env=env).strip()
        assert (Path(root) / "body").read_bytes() == BODY

    pull(site.nodes[0], "first")
    with site.refusing(), site.nodes[1].fetching_from_hosts():
        pull(site.nodes[1], "second")


def test_dockers_registry_mirrors_name_no_registry(
    tmp_path: Path, site: Site, docker_registry: Registry
) -> None:
    """docker asks its mirror for ``/v2/NAME/...``, and so does skopeo for an image that is there."""
    push_body(tmp_path, docker_registry, "peer/docker:v1")

    def pull(node: Node, target: Path) -> None:
        image = f"docker://{node.proxy.host}/peer/docker:v1"
        got = skopeo("copy", "--src-tls-verify=false", image, f"dir:{target}")
        assert got.returncode == 0, got.stderr
        assert len(blobs_in(target)) == 2

    pull(site.nodes[0], tmp_path / "first")
    layer = max(blobs_in(tmp_path / "first"), key=len)
    digest = hashlib.sha256(layer).hexdigest()
    with site.refusing(), site.nodes[1].fetching_from_hosts():
        pull(site.nodes[1], tmp_path / "second")
        # What dockerd does besides: it looks whether this is a registry, and resumes a layer.
        base = f"{site.nodes[1].proxy.url}/v2"
        assert ask_as_docker(f"{base}/", "-o", os.devnull, "-w", "%{http_code}") == b"200"
        manifest = ask_as_docker(f"{base}/peer/docker/manifests/v1", "-H", f"Accept: {MANIFEST}")
        assert digest.encode() in manifest
        blob = f"{base}/peer/docker/blobs/sha256:{digest}"
        assert ask_as_docker(blob, "-H", f"Range: bytes={1 << 20}-") == layer[1 << 20 :]


def ask_as_docker(url: str, *arguments: str) -> bytes:
    """Straight at the mirror, not by way of a proxy."""
    agent = "docker/24.0.7 go/go1.20.10 kernel/6.1 os/linux arch/amd64 UpstreamClient(Docker-Client/24.0.7)"
    command = ["curl", "-sS", "--fail", "--max-time", "30", "--noproxy", "*", "-A", agent, *arguments, url]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_pip_installs_what_another_node_has(tmp_path: Path, site: Site) -> None:
    """The index is the origin's word each time; the wheel comes from the swarm."""
    name, info = "peerdemo", "peerdemo-1.0.dist-info"
    wheel = site.www / f"simple/{name}/peerdemo-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    files = {
        "peerdemo.bin": BODY,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)

    def install(node: Node, target: Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--no-cache-dir", "--proxy", node.proxy.url, "--index-url", f"{site.files.url}/simple/",
             "--trusted-host", "127.0.0.1", "--target", target, name],
            check=True, env={**os.environ, "no_proxy": "", "NO_PROXY": "", "PIP_CONFIG_FILE": os.devnull},
        )  # fmt: skip
        assert (target / "peerdemo.bin").read_bytes() == BODY

    install(site.nodes[0], tmp_path / "first")
    with site.refusing(), site.nodes[1].fetching_from_hosts():
        install(site.nodes[1], tmp_path / "second")


def test_curl_gets_ranges_from_the_swarm(tmp_path: Path, site: Site) -> None:
    (site.www / "ranges.bin").write_bytes(BODY)
    url = f"{site.files.url}/ranges.bin"
    first, second = site.nodes
    assert curl(first.proxy, url).stdout == BODY
    with site.refusing(), second.fetching_from_hosts():
        middle = 1 << 20
        for begin, end in ((0, 0), (1000, 2999), (middle - 5, middle + 4), (2 * middle, len(BODY) - 1)):
            assert curl(second.proxy, "-r", f"{begin}-{end}", url).stdout == BODY[begin : end + 1]
        part = tmp_path / "part"
        part.write_bytes(BODY[:12345])
        assert curl(second.proxy, "-C", "-", "-o", part, url).returncode == 0
        assert part.read_bytes() == BODY
        assert curl(second.proxy, url).stdout == BODY


def test_hugging_face_hub_by_its_endpoint(tmp_path: Path, site: Site) -> None:
    """``HF_ENDPOINT``, as docs/proxy.md says: storage, to which the hub redirects, gives one copy."""
    code = (
        "from huggingface_hub import hf_hub_download;print(hf_hub_download('org/model', 'model.safetensors'))"
    )

    def download(node: Node, home: Path) -> None:
        env = {**os.environ, "HF_ENDPOINT": f"{node.proxy.url}/hf", "HF_HOME": str(home), "no_proxy": "*"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=90
        )
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).read_bytes() == BODY

    download(site.nodes[0], tmp_path / "first")
    with site.refusing(), site.nodes[1].fetching_from_hosts():
        download(site.nodes[1], tmp_path / "second")
    assert site.hub.sent
