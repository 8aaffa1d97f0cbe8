"""Content that needs credentials: given to those whom the origin accepts, and nothing of them is kept."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
from google.protobuf.message import Message

from cafs.p2p.scheduler_link import ask_scheduler
from cafs.proto import p2p_pb2
from tests.e2e.test_sources_by_peer import push_artifact
from tests.support.http import ask
from tests.support.nginx import Served, nginx
from tests.support.oci import log_in
from tests.support.peers import Peer, Proxy, Swarm
from tests.support.ports import chosen_port
from tests.support.program import run_cafs
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.s3 import s3_bucket

BODY = os.urandom((2 << 20) + 12345)
SECRET = "planted" + os.urandom(9).hex()


@pytest.fixture
def origin(short_tmp_path: Path) -> Iterator[Served]:
    """Open to anybody, but for ``/private/``, which wants USER and PASSWORD."""
    folder = short_tmp_path / "www/private"
    folder.mkdir(parents=True)
    for path in (folder / "f.bin", folder.parent / "f.bin"):
        path.write_bytes(BODY)
    digest = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
    (short_tmp_path / "users").write_text(f"{USER}:{{SHA}}{digest}\n")
    private = f"location /private/ {{ auth_basic x; auth_basic_user_file {short_tmp_path}/users; }}"
    with nginx(short_tmp_path, more=private) as served:
        yield served


def came(peer: Peer) -> tuple[int, int]:
    """From the source, and from hosts."""
    figures = peer.status()["downloads"]
    return figures["source_bytes"], figures["peer_bytes"]


def test_a_proxy_gives_what_peers_have_to_those_whom_the_origin_accepts(hosts: Swarm, origin: Served) -> None:
    hosts.scheduler()
    seed = hosts.peer("seed", seed=True)
    settings = ("--set=proxy_rules=p2p .*", f"--set=proxy_allow={origin.host}")
    peers = [hosts.peer(name, *settings) for name in ("a", "b")]
    proxies = [hosts.proxy(peer) for peer in peers]
    url, right = f"{origin.url}/private/f.bin", f"{USER}:{PASSWORD}"
    for proxy in proxies:
        assert proxy.curl(url, "-u", right).stdout == BODY
    assert [came(peer) for peer in peers] == [(len(BODY), 0), (0, len(BODY))]
    assert came(seed) == (0, 0), "a seed has no credentials"
    asked = origin.requests()
    for proxy in proxies:
        for more in ((), ("-u", f"{USER}:wrong"), ("-H", "Authorization: Bearer nonsense")):
            refused = proxy.curl(url, "-w", "%{http_code}", *more)
            assert refused.stdout.endswith(b"401"), proxy.log.read_text()
            assert BODY[:100] not in refused.stdout
        assert proxy.curl(url, "-u", right, "-r", "5-99").stdout == BODY[5:100]
    assert origin.requests() >= asked + 2 * 4, "each was the origin's to decide"
    for peer in peers:
        run_cafs("get", url, "-o", peer.run_dir / "none", *peer.flags, code=1)
        assert not (peer.run_dir / "none").exists()


def test_no_secret_is_logged_told_or_kept(
    hosts: Swarm,
    origin: Served,
    token_registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(tmp_path, monkeypatch, token_registry.host)
    trio.run(push_artifact, token_registry.host, tmp_path)
    with s3_bucket(tmp_path, {"f": BODY}) as variables:
        for name, value in (variables | {"AWS_SECRET_ACCESS_KEY": SECRET}).items():
            monkeypatch.setenv(name, value)
        figures = [chosen_port() for _ in range(2)]
        hosts.scheduler(0, "--debug", f"--metrics=:{figures[0]}")
        settings = ("--debug", "--set=proxy_rules=p2p .*", "--set=proxy_allow=127.0.0.1")
        hosts.peer("seed", *settings, seed=True)
        peers = [hosts.peer(name, *settings) for name in ("a", "b")]
        proxy = hosts.proxy(peers[1], f"--metrics=:{figures[1]}")
        for peer in peers:
            trio.run(ask_with_secrets, peer, origin)
            for url in (f"docker://{token_registry.host}/by/peer:1", "s3://bucket/f"):
                run_cafs("get", url, "-o", peer.run_dir / "out", *peer.flags)
        browse_with_secrets(proxy, origin)
        told = everything_told(hosts, peers, figures)
    looked_at = told | everything_kept(hosts.folder)
    texts = b"".join(looked_at.values())
    for known in (b"/f.bin", token_registry.host.encode(), b"s3://bucket/f", b"cafs_proxy", b"DEBUG"):
        assert known in texts, "what is no secret is found"
    secrets = {SECRET, f"user:{SECRET}", PASSWORD, f"{USER}:{PASSWORD}"}
    for name, content in looked_at.items():
        for secret in set().union(*map(encodings, secrets)):
            assert secret not in content, (name, secret)


def addresses(origin: Served) -> list[str]:
    """Where something is, where nothing is, where one is refused, and where nobody listens."""
    with_nobody = f"127.0.0.1:{chosen_port()}"
    return [f"{origin.host}/f.bin", f"{origin.host}/none", f"{origin.host}/private/f.bin", f"{with_nobody}/f"]


def secret_wishes(place: str) -> list[tuple[str, tuple[str, ...]]]:
    """URLs and headers with a secret in each place that there is for one."""
    return [
        (f"http://{place}", ("Authorization", f"Bearer {SECRET}")),
        (f"http://{place}", ("X-Api-Key", SECRET)),
        (f"http://{place}", ("Cookie", f"session={SECRET}")),
        (f"http://{place}?token={SECRET}&a=1", ()),
        (f"http://{place}?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}", ()),
        (f"http://user:{SECRET}@{place}", ()),
    ]


async def ask_with_secrets(peer: Peer, origin: Served) -> None:
    """Where it works, and where it does not: then there is something to say in the log."""

    async def wish_for(place: str, url: str, header: tuple[str, ...]) -> None:
        wish = {"url": url, "headers": [header] if header else []}
        said = await ask(peer.socket, "POST", "/v1/download", json.dumps(wish).encode())
        assert (said.body == BODY) == (place == f"{origin.host}/f.bin")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for place in addresses(origin):
                for url, header in secret_wishes(place):
                    nursery.start_soon(wish_for, place, url, header)
    for nonsense in (
        {"url": f"http:///?token={SECRET}"},
        {"url": "x", SECRET: 1},
        {"url": f"ftp://u:{SECRET}@h/f"},
    ):
        assert (await ask(peer.socket, "POST", "/v1/download", json.dumps(nonsense).encode())).status >= 400


def browse_with_secrets(proxy: Proxy, origin: Served) -> None:
    wishes = [wish for place in addresses(origin) for wish in secret_wishes(place)]
    with ThreadPoolExecutor(8) as several:
        done = several.map(
            lambda wish: proxy.curl(wish[0], *(("-H", ": ".join(wish[1])) if wish[1] else ())), wishes
        )
        assert [one.returncode for one in done] == [0] * len(wishes)
    assert proxy.curl(f"http://{origin.host}/f.bin", "-H", f"X-Cafs-Nonsense: {SECRET}").returncode == 0


def everything_told(hosts: Swarm, peers: list[Peer], figures: list[int]) -> dict[str, bytes]:
    """What the scheduler, peers and the proxy say to whoever asks."""
    told = {}
    for peer in peers:
        tasks = [task["id"] for task in peer.tasks()]
        for path in ("/v1/tasks", "/v1/status", "/metrics", *(f"/v1/tasks/{task}" for task in tasks)):
            told[f"{peer.run_dir}{path}"] = trio.run(ask, peer.socket, "GET", path).body
        for task in tasks:
            told[f"explain {task}"] = told_by_scheduler(
                hosts, "Explain", p2p_pb2.ExplainRequest(task_id=task)
            )
    told["tasks"] = told_by_scheduler(hosts, "ListTasks", p2p_pb2.ListTasksRequest(limit=1000))
    told["hosts"] = told_by_scheduler(hosts, "ListHosts", p2p_pb2.ListHostsRequest(limit=1000))
    for port in figures:
        told[f"metrics {port}"] = trio.run(ask, port, "GET", "/metrics").body
    return told


def told_by_scheduler(hosts: Swarm, method: str, request: Message) -> bytes:
    return str(ask_scheduler(hosts.schedulers[0], None, method, request)).encode()


def everything_kept(folder: Path) -> dict[str, bytes]:
    """Logs of all processes, and all files of all nodes."""
    own = [folder / "seed", folder / "a", folder / "b"]
    files = [path for place in own for path in place.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in (*files, *folder.glob("scheduler*.log"))}


def encodings(secret: str) -> set[bytes]:
    plain = secret.encode()
    return {
        plain,
        base64.b64encode(plain).rstrip(b"="),
        plain.hex().encode(),
        quote(secret, safe="").encode(),
    }
