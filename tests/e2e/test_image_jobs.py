"""Images preheated by jobs: mounts and downloads on the hosts then take nothing from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from cafs.core.digest import Digest
from cafs.core.learning import encode_bounded
from cafs.core.profile import PREFIX_BYTES, Profile
from cafs.index.layer_index import LayerIndex
from tests.support.container_images import PushedImage, content_of, data_layer, push_container_image
from tests.support.faults import FaultyRegistry
from tests.support.http import ask
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
    of_a_blocked_one_mounts_read_straight(manager, peers, faulty_registry)


def a_converted_one_is_mounted_from_what_is_here(
    manager: ManagerProcess, peers: list[Peer], faulty_registry: FaultyRegistry
) -> None:
    image = pushed(faulty_registry, "jobs/converted", 0, converted=True)
    job = preheat(manager, image)
    assert (job["state"], job["hosts"]["succeeded"]) == ("succeeded", 2), job
    came = source_bytes(peers)
    assert job["done_bytes"] == job["total_bytes"] == 2 * job["most_bytes"]
    assert job["most_bytes"] <= came <= 1.1 * job["most_bytes"]  # the other host had them from this one
    counted_for_its_blobs(manager, peers)
    faulty_registry.settled()
    faulty_registry.forget()
    for peer in peers:
        tree = peer.run_dir / "tree"
        tree.mkdir()
        run_cafs("mount", image.reference, tree, "--prefetch=none", *peer.flags)
        for number in range(2):
            read_all(tree / f"data/{number}", number)
        run_cafs("umount", tree, *peer.flags)
    assert faulty_registry.body_bytes("/blobs/") < 1000  # no more than configurations
    assert source_bytes(peers) == came
    # It is all here, so doing it again costs nothing.
    assert preheat(manager, image)["state"] == "succeeded"
    assert source_bytes(peers) == came


def counted_for_its_blobs(manager: ManagerProcess, peers: list[Peer]) -> None:
    """The statistics of tasks have all that came: chunks, and layer indexes as blobs."""
    seen = [peer.status() for peer in peers]
    tasks = {task for status in seen for task in status["traffic"]}
    for name in ("source", "peer"):
        count = sum(status[part][f"{name}_bytes"] for status in seen for part in ("chunks", "downloads"))
        by = {"source": "origin_bytes"}.get(name, "peer_bytes")

        def counted(by: str = by) -> dict[str, int]:
            top = manager.call("GET", f"/statistics/top?of=task&by={by}")["items"]
            return {item["name"]: item["values"][by] for item in top}

        wait_for(lambda counted=counted, count=count: sum(counted().values()) == count, f"{by} of tasks")
        assert set(counted()) <= tasks
        assert max(counted().values()) > SIZE  # a layer's chunks


def of_a_start_only_what_it_reads_is_here(
    manager: ManagerProcess, peers: list[Peer], faulty_registry: FaultyRegistry
) -> None:
    image = pushed(faulty_registry, "jobs/start", 2, converted=True)
    came, indexes = source_bytes(peers), [len(indexes_of(peer)) for peer in peers]
    assert (
        results(manager, image)
        == [
            {
                "chunks": 0,
                "note": "no start profile is attached or was learned: only the layer indexes are here",
            }
        ]
        * 2
    )
    assert source_bytes(peers) - came < SIZE
    assert [len(indexes_of(peer)) for peer in peers] == [count + 2 for count in indexes]
    before = source_bytes(peers)
    learn_of_a_start(peers[0], image)
    wait_for(lambda: manager.call("GET", "/profiles")["items"], "the start to be learned of")
    assert results(manager, image) == [{"chunks": 2}] * 2
    assert 0 < source_bytes(peers) - before < SIZE


def results(manager: ManagerProcess, image: PushedImage) -> list[Any]:
    """What the hosts answered to a job that has the image's start here."""
    job = preheat(manager, image, content="start")
    assert job["state"] == "succeeded", job
    return [part["result"] for part in manager.call("GET", f"/jobs/{job['id']}/hosts")["items"]]


def learn_of_a_start(peer: Peer, image: PushedImage) -> None:
    """As the mount server tells it: it has read the first two chunks of a layer."""
    diff_id = Digest(image.diff_ids[0])
    for path in indexes_of(peer):
        if not path.read_bytes().startswith(b"CAFSIDX1"):
            continue  # one for the kernel's EROFS, of a mounted image
        with closing(LayerIndex.open(path)) as index:
            if index.header.diff_id.hex() == diff_id.partition(":")[2]:
                refs = [index.table.row(row) for row in range(2)]
    start = Profile((diff_id,), tuple((0, ref.digest[:PREFIX_BYTES]) for ref in refs))
    path = f"/v1/profiles/{image.manifest.digest}"
    assert trio.run(ask, peer.socket, "POST", path, encode_bounded(start)).status == 202


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


def of_a_blocked_one_mounts_read_straight(
    manager: ManagerProcess, peers: list[Peer], faulty_registry: FaultyRegistry
) -> None:
    """Also those that ran before; and nobody else brings it here."""
    image, peer = pushed(faulty_registry, "jobs/blocked", 6, converted=True), peers[0]
    tree = peer.run_dir / "blocked"
    tree.mkdir()
    run_cafs("mount", image.reference, tree, "--prefetch=none", *peer.flags)
    read_all(tree / "data/6", 6)
    assert peer.status()["chunks"]["source_bytes"] > SIZE
    obeyed(manager, {"block": [{"url": "/v2/jobs/blocked/"}]})
    faulty_registry.settled()
    before = peer.status()["chunks"]
    read_all(tree / "data/7", 7)
    after = peer.status()["chunks"]
    assert (after["source_bytes"], after["peer_bytes"]) == (before["source_bytes"], before["peer_bytes"])
    assert after["brought"] == before["brought"]
    job = preheat(manager, image)
    assert (job["state"], job["hosts"]["failed"]) == ("failed", 2)
    parts = manager.call("GET", f"/jobs/{job['id']}/hosts")["items"]
    assert all("blocked by the cluster's configuration: url /v2/jobs/blocked/" in p["why"] for p in parts)
    run_cafs("umount", tree, *peer.flags)
    obeyed(manager, {})
    assert preheat(manager, image)["state"] == "succeeded"


def read_all(folder: Path, number: int) -> None:
    for path in sorted(folder.iterdir()):
        assert path.read_bytes() == content_of(number, path.name, path.stat().st_size)


def obeyed(manager: ManagerProcess, document: Any) -> None:
    """All hosts run this configuration."""
    sent = {"json": {"document": document}, "headers": {"If-Match": "*"}}
    version = manager.call("PUT", "/clusters/1/configuration", **sent)["version"]

    def runs() -> bool:
        hosts = manager.call("GET", "/hosts?active=true")["items"]
        return all(manager.call("GET", f"/hosts/{host['id']}")["running"] == version for host in hosts)

    wait_for(runs, f"all to run version {version}")
