"""Programs that know nothing of CAFS, on nodes of a swarm: containerd, curl; an origin that is no help."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_proxy_clients import BODY, cafs_proxy, curl, push_image
from tests.support.containerd import Containerd
from tests.support.faults import FaultyRegistry, Status
from tests.support.nginx import Served, nginx
from tests.support.peers import Peer, swarm
from tests.support.registry import Registry

LEAST_PIECE = 1 << 20


@pytest.fixture
def nodes(short_tmp_path: Path) -> Iterator[list[Peer]]:
    """Two, and their scheduler."""
    with swarm(short_tmp_path) as hosts:
        hosts.scheduler()
        yield [hosts.peer(f"p{n}") for n in range(2)]


def beside(peer: Peer) -> list[str]:
    """A proxy's settings, so that it uses this peer."""
    return [flag.removeprefix("--set=") for flag in peer.flags]


def pull(containerd: Containerd, folder: Path, image: str, registry: str, mirror: Served) -> None:
    """``hosts.toml``, as docs/proxy.md says."""
    hosts = folder / "certs.d" / registry
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(
        f'server = "http://{registry}"\n[host."{mirror.url}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    containerd.ctr("image", "pull", "--hosts-dir", folder / "certs.d", "--snapshotter", "native", image)


def test_containerd_pulls_from_the_swarm(
    tmp_path: Path,
    short_tmp_path: Path,
    nodes: list[Peer],
    faulty_registry: FaultyRegistry,
    docker_registry: Registry,
) -> None:
    """With ``?ns=``: the second node's layer comes from the first, while the registry refuses it."""
    (tmp_path / "body").write_bytes(BODY)
    push_image(tmp_path, docker_registry, "swarm/app:v1")
    image = f"{faulty_registry.host}/swarm/app:v1"
    for number, peer in enumerate(nodes):
        folder = short_tmp_path / f"k{number}"
        folder.mkdir()
        containerd = Containerd(folder / "c").start()
        try:
            with cafs_proxy(folder, f"proxy_allow={faulty_registry.host}", *beside(peer)) as mirror:
                pull(containerd, folder, image, faulty_registry.host, mirror)
                assert image in containerd.ctr("image", "list", "--quiet")
        finally:
            containerd.clean_up()
        faulty_registry.fail(Status(503), path="/blobs/")
    assert nodes[1].status()["downloads"]["peer_bytes"] >= len(BODY)


def test_an_origin_that_is_silent_or_dead_while_the_swarm_has_it(
    short_tmp_path: Path, nodes: list[Peer]
) -> None:
    """curl gets all of it, and ranges, through the other node's proxy."""
    (short_tmp_path / "www").mkdir()
    (short_tmp_path / "www/f.bin").write_bytes(BODY)
    with nginx(short_tmp_path, more='add_header Cache-Control "max-age=3600";') as origin:
        url = f"{origin.url}/f.bin"
        settings = [f"proxy_allow={origin.host}", "proxy_rules=p2p f.bin"]
        folders = [short_tmp_path / name for name in ("first", "other")]
        for folder in folders:
            folder.mkdir()
        with (
            cafs_proxy(folders[0], *settings, *beside(nodes[0])) as first,
            cafs_proxy(folders[1], *settings, *beside(nodes[1])) as other,
        ):
            assert curl(first, url).stdout == BODY
            master = int((short_tmp_path / "nginx.pid").read_text())
            workers = children(master)
            for pid in (master, *workers):
                signal_to(pid, signal.SIGSTOP)  # connections are taken, and nothing is said
            try:
                assert curl(other, "-r", "1000-2999", url).stdout == BODY[1000:3000]
                assert curl(other, url).stdout == BODY
                assert curl(first, url).stdout == BODY
            finally:
                for pid in (master, *workers):
                    signal_to(pid, signal.SIGCONT)
            (short_tmp_path / "www/f.bin").unlink()
            assert curl(other, url).stdout == BODY  # fresh: nobody has to ask
    assert nodes[1].status()["downloads"]["peer_bytes"] >= len(BODY) - LEAST_PIECE
    assert nodes[1].status()["downloads"]["source_bytes"] == 0


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def signal_to(pid: int, which: signal.Signals) -> None:
    os.kill(pid, which)
