"""What a start reads on one node is fetched on the next one before anybody reads it: nobody records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.manager import Manager, options_for, running_manager
from tests.support.mountd import MountServer, PushedImage, erofs, mount_server, push_image
from tests.support.peers import Peer, Swarm, wait_for
from tests.support.program import run_cafs
from tests.support.registry import Registry

READ = ("f3", "f11", "f7")


class Nodes:
    """Nodes that mount images lazily, each with its own store and peer, and one manager."""

    def __init__(self, hosts: Swarm, manager: Manager) -> None:
        self.hosts = hosts
        self.manager = manager
        self.admin = manager.administrator()

    @contextmanager
    def node(self, name: str, *more: str) -> Iterator[tuple[Peer, MountServer]]:
        """A new one, whose peer the manager knows."""
        peer = self.hosts.peer(name, f"--set=managers=127.0.0.1:{self.manager.ports.services}")
        wait_for(lambda: self.host(peer)["active"], "the manager to know the peer")
        folder = self.hosts.folder / f"{name}-m"
        folder.mkdir()
        with mount_server(folder, "--prefetch=profile", f"--set=run_dir={peer.run_dir}", *more) as server:
            yield peer, server

    def host(self, peer: Peer) -> Any:
        answer = self.manager.ask("GET", f"/hosts/{peer.status()['host_id']}", self.admin)
        return answer.json() if answer.status_code == 200 else {"active": False}

    def profiles(self) -> Any:
        return self.manager.call("GET", "/profiles", self.admin)["items"]

    def configure(self, document: Any) -> int:
        """The version that holds now."""
        made = self.manager.call(
            "PUT",
            "/clusters/1/configuration",
            self.admin,
            json={"document": document},
            headers={"If-Match": "*"},
        )
        return int(made["version"])


@pytest.fixture
def nodes(hosts: Swarm, short_tmp_path: Path) -> Iterator[Nodes]:
    with running_manager(options_for(short_tmp_path / "manager")) as manager:
        hosts.scheduler()
        yield Nodes(hosts, manager)


def start(server: MountServer, image: PushedImage, layers: int) -> int:
    """Read some files of the uppermost layer, as a container would, and end; plain bytes of what was read."""
    added = [server.client.add_layer(image.layer(number)) for number in range(layers)]
    with erofs(server, added[-1], server.path / "e") as root:
        for name in READ:
            (root / name).read_bytes()
        touched = sum(layer["touched_bytes"] for layer in server.client.layers())
    for layer in added:
        server.client.remove_layer(layer.name)
    return int(touched)


def mount(server: MountServer, image: PushedImage, layers: int) -> None:
    """Show an image, and read nothing of it."""
    for number in range(layers):
        server.client.add_layer(image.layer(number))


def here(server: MountServer) -> int:
    layers = server.client.layers()
    assert sum(layer["touched_bytes"] for layer in layers) == 0
    return int(sum(layer["here_bytes"] for layer in layers))


def asked(peer: Peer) -> tuple[int, int]:
    told = peer.status()["profiles"]
    return told["learned"], told["nothing"]


def test_the_first_start_teaches_the_next_node(
    nodes: Nodes, docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="learned/app", layers=2)

    with nodes.node("a") as (peer, server):
        read = start(server, image, 2)
        assert read > 0
        wait_for(nodes.profiles, "the start to be learned of")
        assert asked(peer) == (0, 1)
    (learned,) = nodes.profiles()
    assert (learned["image"], learned["name"], learned["starts"]) == (image.manifest, image.reference, 1)

    with nodes.node("b") as (peer, server):
        mount(server, image, 2)
        wait_for(lambda: here(server) == read, "the learned chunks")
        assert asked(peer) == (1, 0)
        shown = run_cafs(
            "profile", "show", "--learned", "--files", image.reference, "--json", *peer.flags
        ).json
        assert (shown["chunks"], shown["starts"]) == (learned["chunks"], 1)
        assert set(READ) <= {file["path"].lstrip("/") for file in shown["files"]}

    off = nodes.configure({"profiles": {"learn": False}})
    with nodes.node("c") as (peer, server):
        wait_for(lambda: nodes.host(peer)["running"] == off, "the peer to obey")
        mount(server, image, 2)
        wait_for(lambda: asked(peer) == (0, 1), "the node to be told that nothing is learned")
        assert here(server) == 0

    nodes.configure({})
    with nodes.node("d", "--set=learned_profiles=false") as (peer, server):
        start(server, image, 2)
        assert asked(peer) == (0, 0)
        assert nodes.profiles()[0]["starts"] == 1

    nodes.manager.call("DELETE", f"/profiles/{image.manifest}", nodes.admin, 204)
    with nodes.node("e") as (peer, server):
        mount(server, image, 2)
        wait_for(lambda: asked(peer) == (0, 1), "the node to be told that nothing is learned")
        assert here(server) == 0
    changes = nodes.manager.call("GET", "/audit", nodes.admin)["items"]
    assert (changes[0]["action"], changes[0]["thing"]) == ("profile.reset", f"profile {image.manifest}")
