"""Containers under a real containerd and runc, from images of every kind: their whole life."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commit import commit_container
from tests.support.container_images import (
    PushedImage,
    base_layer,
    content_of,
    damage_index,
    data_layer,
    push_container_image,
)
from tests.support.containerd import Containerd
from tests.support.node import CAFS, Node
from tests.support.program import run_cafs
from tests.support.registry import Registry

LAYERS = 4


@dataclass(frozen=True)
class Kind:
    """How an image is, and how many of its layers come lazily."""

    converted: bool
    damaged: tuple[int, ...]
    """Layers whose index is not what it should be: they go the ordinary way."""
    lazy: int


KINDS = {
    "unconverted": Kind(converted=False, damaged=(), lazy=0),
    "converted": Kind(converted=True, damaged=(), lazy=LAYERS),
    "mixed": Kind(converted=True, damaged=(1, 3), lazy=LAYERS - 2),
}


@pytest.fixture
def node(short_tmp_path: Path) -> Iterator[Node]:
    node = Node(short_tmp_path)
    yield node.start()
    node.clean_up()


@pytest.fixture(scope="module")
def images(docker_registry: Registry) -> Callable[[str], PushedImage]:
    """An image of each kind, in a repository of its own."""
    made: dict[str, PushedImage] = {}

    def image(kind: str) -> PushedImage:
        if kind not in made:
            # The registry keeps equal blobs once: what is damaged must be nobody else's.
            layers = [base_layer(), *(data_layer(number, _size(kind)) for number in range(LAYERS - 1))]
            made[kind] = pushed = push_container_image(docker_registry, f"containers/{kind}", layers)
            if KINDS[kind].converted:
                run_cafs("convert", pushed.reference)
            for layer in KINDS[kind].damaged:
                damage_index(docker_registry, pushed, layer)
        return made[kind]

    return image


def _size(kind: str) -> int:
    return 300_000 + list(KINDS).index(kind)


def _name() -> str:
    return f"cafs-test-{os.urandom(4).hex()}"


def test_a_containers_life_with_overlayfs(
    containerd: Containerd, images: Callable[[str], PushedImage]
) -> None:
    """The same with containerd's own snapshotter: what the tests ask for is what containerd does."""
    image = images("unconverted")

    def pull(*arguments: str) -> None:
        run_cafs("pull", *arguments, "--address", containerd.address, "--snapshotter", "overlayfs")

    pull(image.reference)
    _live(containerd, image, _size("unconverted"), "overlayfs", pull)


@pytest.mark.parametrize("kind", KINDS)
def test_a_containers_life(node: Node, images: Callable[[str], PushedImage], kind: str) -> None:
    image = images(kind)
    pulled = node.pull(image.reference, "--json").json
    assert pulled["layers"] - pulled["unpacked_layers"] == KINDS[kind].lazy
    assert len(node.lazy_mounts()) == len(node.mountd.layers()) == KINDS[kind].lazy

    def pull(*arguments: str) -> None:
        node.pull(*arguments)

    _live(node.containerd, image, _size(kind), CAFS, pull)
    node.containerd.collect_garbage()
    node.mountd.wait_until_empty()
    assert node.lazy_mounts() == []
    node.stop()


def test_another_snapshotter_runs_an_image_whose_content_was_brought(
    node: Node, images: Callable[[str], PushedImage]
) -> None:
    image = images("converted")
    node.pull(image.reference)
    look = ("sha256sum", "/data/0/large")
    refused = node.containerd.run(image.reference, _name(), *look, snapshotter="overlayfs", code=1)
    assert "not found" in refused, "it is pulled lazily: or this test shows nothing"
    node.pull(image.reference, "--content")
    for snapshotter in ("overlayfs", CAFS):
        told = node.containerd.run(image.reference, _name(), *look, snapshotter=snapshotter)
        assert told.split()[0] == hashlib.sha256(content_of(0, "large", _size("converted"))).hexdigest()
    assert len(node.lazy_mounts()) == LAYERS
    node.remove_everything([])
    node.stop()


def _live(
    containerd: Containerd, image: PushedImage, size: int, snapshotter: str, pull: Callable[..., None]
) -> None:
    """Run, change, commit, push, run the result elsewhere, remove everything."""
    name, committed = _name(), f"{image.reference}-{snapshotter}"
    containerd.run_detached(image.reference, name, "sleep", "1000", snapshotter=snapshotter)
    change = "echo changed > /etc/new && rm -r /data/1 && mkdir /data/1 && chmod 700 /data/2/large"
    containerd.exec(name, "sh", "-c", change)
    commit_container(containerd.address, containerd.namespace, snapshotter, name, image, committed)
    containerd.remove(name)
    pull(image.reference, "--content")
    containerd.ctr("image", "push", "--plain-http", committed)
    containerd.ctr("image", "export", containerd.folder / "exported.tar", committed)
    containerd.namespace = "other"
    pull(committed, "--namespace", "other")
    look = "cat /etc/new; ls /data/1; stat -c %a /data/2/large; cat /data/2/large /data/0/large | sha256sum"
    told = containerd.run(committed, _name(), "sh", "-c", look, snapshotter=snapshotter).split()
    both = content_of(2, "large", size) + content_of(0, "large", size)
    assert told == ["changed", "700", hashlib.sha256(both).hexdigest(), "-"]
    containerd.ctr("image", "rm", "--sync", committed)
    assert containerd.ctr("snapshots", "--snapshotter", snapshotter, "ls").splitlines()[1:] == []
    containerd.namespace = "default"
    containerd.ctr("image", "rm", "--sync", committed, image.reference)
    assert containerd.ctr("snapshots", "--snapshotter", snapshotter, "ls").splitlines()[1:] == []
    assert containerd.ctr("content", "ls").splitlines()[1:] == []
