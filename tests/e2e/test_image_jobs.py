"""Images preheated by jobs: mounts and downloads on the hosts then take nothing from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container_images import PushedImage, content_of, data_layer, push_container_image
from tests.support.faults import FaultyRegistry
from tests.support.manager_process import ManagerProcess, manager_process
from tests.support.mounts import unmounted_after
from tests.support.peers import Peer, Swarm, wait_for
from tests.support.program import run_cafs

SIZE = 700_000


@pytest.fixture
def manager(short_tmp_path: Path) -> Iterator[ManagerProcess]:
    with unmounted_after(short_tmp_path), manager_process(short_tmp_path) as running:
        yield running


@pytest.fixture
def peers(hosts: Swarm, manager: ManagerProcess) -> list[Peer]:
    hosts.scheduler()
    started = [hosts.peer(f"p{n}", f"--set=managers=127.0.0.1:{manager.services}") for n in range(2)]
    wait_for(lambda: len(manager.call("GET", "/hosts?active=true")["items"]) == 2, "two hosts at the manager")
    return started


def pushed(registry: FaultyRegistry, name: str, first: int, *, converted: bool) -> PushedImage:
    layers = [data_layer(first + number, SIZE) for number in range(2)]
    image = push_container_image(registry, name, layers)  # type: ignore[arg-type]  # it has a host
    if converted:
        run_cafs("convert", image.reference)
    registry.forget()
    return image


def preheat(manager: ManagerProcess, image: PushedImage, **more: Any) -> Any:
    spec = {"image": image.reference, **more}
    body = {"kind": "preheat_image", "cluster_id": 1, "retries": 0, "spec": spec}
    return manager.ended(manager.call("POST", "/jobs", 201, json=body)["id"])


def source_bytes(peers: list[Peer]) -> int:
    return sum(peer.status()["chunks"]["source_bytes"] for peer in peers)


def test_images(manager: ManagerProcess, peers: list[Peer], faulty_registry: FaultyRegistry) -> None:
    """One after the other, as what they need is slow to start."""
    a_converted_one_is_mounted_from_what_is_here(manager, peers, faulty_registry)
    of_a_start_only_what_it_reads_is_here(manager, peers, faulty_registry)
    one_that_is_not_converted_comes_as_blobs(manager, peers, faulty_registry)


def a_converted_one_is_mounted_from_what_is_here(
    manager: ManagerProcess, peers: list[Peer], faulty_registry: FaultyRegistry
) -> None:
    image = pushed(faulty_registry, "jobs/converted", 0, converted=True)
    job = preheat(manager, image)
    assert (job["state"], job["hosts"]["succeeded"]) == ("succeeded", 2), job
    came = source_bytes(peers)
    assert job["done_bytes"] == job["total_bytes"] == 2 * job["most_bytes"]
    assert job["most_bytes"] <= came <= 1.1 * job["most_bytes"]  # the other host had them from this one
    faulty_registry.settled()
    faulty_registry.forget()
    for peer in peers:
        tree = peer.run_dir / "tree"
        tree.mkdir()
        run_cafs("mount", image.reference, tree, "--prefetch=none", *peer.flags)
        for number in range(2):
            for path in sorted((tree / f"data/{number}").iterdir()):
                assert path.read_bytes() == content_of(number, path.name, path.stat().st_size)
        run_cafs("umount", tree, *peer.flags)
    assert faulty_registry.body_bytes("/blobs/") < 1000  # no more than configurations
    assert source_bytes(peers) == came
    # It is all here, so doing it again costs nothing.
    assert preheat(manager, image)["state"] == "succeeded"
    assert source_bytes(peers) == came


def of_a_start_only_what_it_reads_is_here(
    manager: ManagerProcess, peers: list[Peer], faulty_registry: FaultyRegistry
) -> None:
    image = pushed(faulty_registry, "jobs/start", 2, converted=True)
    came, indexes = source_bytes(peers), [len(indexes_of(peer)) for peer in peers]
    assert preheat(manager, image, content="start")["state"] == "succeeded"
    assert source_bytes(peers) - came < SIZE
    assert [len(indexes_of(peer)) for peer in peers] == [count + 2 for count in indexes]


def indexes_of(peer: Peer) -> list[Path]:
    return [path for path in (peer.run_dir.parent / "c/index").iterdir() if len(path.name) == 64]


def one_that_is_not_converted_comes_as_blobs(
    manager: ManagerProcess, peers: list[Peer], faulty_registry: FaultyRegistry
) -> None:
    image = pushed(faulty_registry, "jobs/plain", 4, converted=False)
    job = preheat(manager, image, platforms=["linux/amd64"])
    assert job["state"] == "succeeded"
    assert job["most_bytes"] > sum(layer.size for layer in image.layers)
    sent = faulty_registry.body_bytes("/blobs/")
    assert sent < 1.1 * job["most_bytes"]
    layer = image.layers[0].digest
    for peer in peers:
        source = f"docker://{faulty_registry.host}/{image.repository}@{layer}"
        run_cafs("get", source, "-o", peer.run_dir / "blob", f"--digest={layer}", *peer.flags)
    assert faulty_registry.body_bytes("/blobs/") == sent
    failed = preheat(manager, image, content="start")
    assert (failed["state"], failed["hosts"]["failed"]) == ("failed", 2)
    parts = manager.call("GET", f"/jobs/{failed['id']}/hosts")["items"]
    assert all("not converted" in part["why"] for part in parts), parts
