"""Real clients through the real proxy: curl, pip, skopeo, huggingface_hub; nginx and a registry behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.nginx import Served, nginx
from tests.support.patience import PATIENCE_S
from tests.support.program import ROOT, cafs_command, run_cafs
from tests.support.registry import PASSWORD, USER, Registry

BODY = os.urandom(5 << 20)


@contextmanager
def cafs_proxy(folder: Path, *settings: str) -> Iterator[Served]:
    """``cafs proxy`` on a port of its own choosing."""
    log = folder / "proxy.log"
    flags = [f"--set={s}" for s in (f"cache_dir={folder}/cache", f"run_dir={folder}/run", *settings)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            cafs_command("proxy", "--listen", ":0", *flags),
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        yield Served(_wait_for(log, r"serving on http://(\S+)", process), log)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait_for(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> str:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up and process.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found[1]
        time.sleep(0.02)  # a file cannot be waited for
    raise RuntimeError(log.read_text())


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Served]:
    with nginx(tmp_path) as served:
        yield served


def curl(proxy: Served, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "30", "--noproxy", "", "-x", proxy.url, *arguments],
        capture_output=True, check=False,
    )  # fmt: skip


def test_curl(tmp_path: Path, origin: Served) -> None:
    (tmp_path / "www/f.bin").write_bytes(BODY)
    with cafs_proxy(tmp_path, f"proxy_allow={origin.host}") as proxy:
        url = f"{origin.url}/f.bin"
        assert curl(proxy, url).stdout == BODY
        assert curl(proxy, "-r", "1000-2999", url).stdout == BODY[1000:3000]
        assert curl(proxy, "-r", "-500", url).stdout == BODY[-500:]
        several = curl(proxy, "-r", "0-9,100-109", url).stdout
        assert BODY[:10] in several
        assert BODY[100:110] in several
        assert f"content-length: {len(BODY)}" in curl(proxy, "-I", url).stdout.decode().lower()
        assert curl(proxy, "--proxytunnel", url).stdout == BODY
        assert curl(proxy, "--http1.0", url).stdout == BODY
        etag = re.search(rb'(?i)etag: (".*?")', curl(proxy, "-I", url).stdout)
        assert etag
        told = curl(
            proxy, "-o", tmp_path / "x", "-w", "%{http_code}", "-H", f"If-None-Match: {etag[1].decode()}", url
        )
        assert told.stdout == b"304"
        part = tmp_path / "part"
        part.write_bytes(BODY[:12345])
        curl(proxy, "-C", "-", "-o", part, url)
        assert part.read_bytes() == BODY
        digest = "sha256:" + hashlib.sha256(BODY).hexdigest()
        assert curl(proxy, "-H", f"X-Cafs-Digest: {digest}", url).stdout == BODY
        wrong = curl(proxy, "-o", tmp_path / "x", "-H", "X-Cafs-Digest: sha256:" + "0" * 64, url)
        assert wrong.returncode != 0
        assert curl(proxy, f"{origin.url}/nope", "-w", "%{http_code}", "-o", tmp_path / "x").stdout == b"404"


def test_cafs_get_of_what_nginx_lists(tmp_path: Path, origin: Served) -> None:
    (tmp_path / "www/d/e").mkdir(parents=True)
    (tmp_path / "www/d/a b.bin").write_bytes(BODY)
    (tmp_path / "www/d/e/x.txt").write_bytes(b"x")
    run_cafs("get", f"{origin.url}/d/", "--recursive", "-o", tmp_path / "got", "--quiet")
    assert (tmp_path / "got/a b.bin").read_bytes() == BODY
    assert (tmp_path / "got/e/x.txt").read_bytes() == b"x"


def test_pip(tmp_path: Path, origin: Served) -> None:
    name, info = "cafsdemo", "cafsdemo-1.0.dist-info"
    wheel = tmp_path / f"www/simple/{name}/cafsdemo-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    files = {
        "cafsdemo.py": "VALUE = 7\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    with cafs_proxy(tmp_path, f"proxy_allow={origin.host}") as proxy:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--no-cache-dir", "--proxy", proxy.url, "--index-url", f"{origin.url}/simple/",
             "--trusted-host", "127.0.0.1",
             "--target", tmp_path / "lib", name],
            check=True, env={**os.environ, "no_proxy": "", "NO_PROXY": "", "PIP_CONFIG_FILE": os.devnull},
        )  # fmt: skip
    assert (tmp_path / "lib/cafsdemo.py").read_text() == "VALUE = 7\n"
    assert "cafsdemo-1.0-py3-none-any.whl" in origin.log.read_text()


def skopeo(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def push_image(tmp_path: Path, registry: Registry, name: str, *options: str) -> None:
    """An image of one layer with the file ``body`` in it, which no other image has: it names its image."""
    root = tmp_path / "image"
    (tmp_path / "name").write_text(name)
    (root / "blobs/sha256").mkdir(parents=True)

    def add(content: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (root / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    command = ["tar", "-C", tmp_path, "-cf", "-", "body", "name"]
    tar = subprocess.run(command, capture_output=True, check=True).stdout
    diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [add(tar, "application/vnd.oci.image.layer.v1.tar")],
    }
    entry = add(json.dumps(manifest).encode(), str(manifest["mediaType"]))
    named = {**entry, "annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    pushed = skopeo(
        "copy", "--dest-tls-verify=false", *options, f"oci:{root}:v1", f"docker://{registry.host}/{name}"
    )
    assert pushed.returncode == 0, pushed.stderr


def mirrors_file(tmp_path: Path, registry: str, mirror: str) -> dict[str, str]:
    """podman's and skopeo's configuration of a mirror."""
    path = tmp_path / "home/.config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(
        f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
    )
    # podman reads nothing in the home of root.
    return {"HOME": f"{tmp_path}/home", "CONTAINERS_REGISTRIES_CONF": str(path)}


def test_skopeo_through_the_mirror(tmp_path: Path, docker_registry: Registry) -> None:
    (tmp_path / "body").write_bytes(BODY)
    push_image(tmp_path, docker_registry, "proxied/app:v1")
    asked_before = docker_registry.log().count("proxied/app/blobs")
    with cafs_proxy(
        tmp_path, f"proxy_registry={docker_registry.host}", f"proxy_allow={docker_registry.host}"
    ) as proxy:
        env = mirrors_file(tmp_path, docker_registry.host, proxy.host)
        got = skopeo(
            "copy", f"docker://{docker_registry.host}/proxied/app:v1", f"dir:{tmp_path}/got", env=env
        )
        assert got.returncode == 0, got.stderr
        via = [line for line in docker_registry.log().splitlines() if "proxied/app/blobs" in line]
        assert len(via) > asked_before
    # skopeo compresses layers when it pushes them: so each is held to its own name.
    blobs = [path for path in (tmp_path / "got").iterdir() if len(path.name) == 64]
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)
    assert len(blobs) == 2


def test_credentials_pass_untouched(
    tmp_path: Path, basic_registry: Registry, token_registry: Registry
) -> None:
    (tmp_path / "body").write_bytes(BODY)
    for registry in (basic_registry, token_registry):
        shutil.rmtree(tmp_path / "image", ignore_errors=True)
        shutil.rmtree(tmp_path / "got", ignore_errors=True)
        push_image(tmp_path, registry, "private/app:v1", f"--dest-creds={USER}:{PASSWORD}")
        with cafs_proxy(tmp_path, f"proxy_registry={registry.host}", f"proxy_allow={registry.host}") as proxy:
            source = f"docker://{proxy.host}/private/app:v1"
            got = skopeo(
                "copy",
                "--src-tls-verify=false",
                f"--src-creds={USER}:{PASSWORD}",
                source,
                f"dir:{tmp_path}/got",
            )
            assert got.returncode == 0, got.stderr
            refused = skopeo("inspect", "--tls-verify=false", "--no-creds", source)
            assert refused.returncode != 0
            assert re.search("unauthorized|authentication required", refused.stderr)
            wrong = skopeo("inspect", "--tls-verify=false", f"--creds={USER}:wrong", source)
            assert wrong.returncode != 0
            assert PASSWORD not in proxy.log.read_text()


def test_opened_tls_of_a_listed_host(tmp_path: Path, expected_tls: Callable[[Path], Served]) -> None:
    """curl believes our authority; the origin's certificate is verified by us."""
    origin = expected_tls(tmp_path)
    run_cafs("ca", "init", tmp_path / "interception")
    env = {"SSL_CERT_FILE": str(tmp_path / "origin-ca/ca.pem")}
    with ExitStack() as stack:
        for name, value in env.items():
            stack.callback(os.environ.pop, name, None)
            os.environ[name] = value
        proxy = stack.enter_context(
            cafs_proxy(
                tmp_path, f"proxy_allow={origin.host}", f"proxy_intercept={origin.host}",
                f"proxy_ca={tmp_path}/interception",
            )
        )  # fmt: skip
        url = f"https://{origin.host}/f.whl"
        got = curl(proxy, "--cacert", tmp_path / "interception/ca.pem", url)
        assert got.stdout == BODY, got.stderr
        assert curl(proxy, "--cacert", tmp_path / "origin-ca/ca.pem", url).returncode == 60
    with cafs_proxy(tmp_path, f"proxy_allow={origin.host}") as proxy:  # not listed: unopened
        assert curl(proxy, "--cacert", tmp_path / "origin-ca/ca.pem", url).stdout == BODY


@pytest.fixture
def expected_tls() -> Iterator[Callable[[Path], Served]]:
    """An HTTPS server whose certificate ``cafs ca`` made."""
    import ssl  # noqa: PLC0415

    servers: list[ThreadingHTTPServer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, format: str, *args: object) -> None:
            pass

    def serve(folder: Path) -> Served:
        ca = folder / "origin-ca"
        run_cafs("ca", "init", ca)
        run_cafs("ca", "issue", ca, "origin", "--address", "127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca / "origin.pem", ca / "origin.key")
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return Served(f"127.0.0.1:{server.server_port}", folder / "none")

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_hugging_face_hub(tmp_path: Path) -> None:
    """HF_ENDPOINT is the mirror; the hub redirects to storage that the client must not go to itself."""
    commit, etag = "c" * 40, hashlib.sha256(BODY).hexdigest()
    seen: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            seen.append(f"{self.command} {self.path}")
            stored = self.path.startswith("/storage/")
            self.send_response(200 if stored else 302)
            if not stored:
                self.send_header("Location", f"http://localhost:{hub.server_port}/storage/f?sig=1")
                self.send_header("X-Repo-Commit", commit)
                self.send_header("X-Linked-Etag", f'"{etag}"')
                self.send_header("X-Linked-Size", str(len(BODY)))
                self.send_header("X-Xet-Hash", "a" * 64)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Content-Length", str(len(BODY)) if stored else "0")
            self.end_headers()
            if with_body and stored:
                self.wfile.write(BODY)

        def log_message(self, format: str, *args: object) -> None:
            pass

    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    host = f"127.0.0.1:{hub.server_port}"
    try:
        with cafs_proxy(
            tmp_path, f"proxy_mirrors=hf=http://{host}", f"proxy_allow={host},localhost:{hub.server_port}"
        ) as proxy:
            code = (
                "from huggingface_hub import hf_hub_download;"
                "print(hf_hub_download('org/model', 'model.safetensors'))"
            )
            env = {
                **os.environ,
                "HF_ENDPOINT": f"{proxy.url}/hf",
                "HF_HOME": str(tmp_path / "hf"),
                "no_proxy": "*",
            }
            done = subprocess.run(
                [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=90
            )
            assert done.returncode == 0, done.stderr
            assert Path(done.stdout.strip()).read_bytes() == BODY
    finally:
        hub.shutdown()
        hub.server_close()
    assert any(line.startswith("GET /storage/") for line in seen)
    assert any("/org/model/" in line for line in seen)
