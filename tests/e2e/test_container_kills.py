"""Processes killed with -9 at random, or restarted, under containers that read: no reader may see it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.container_images import PushedImage
from tests.support.node import Node
from tests.support.program import run_cafs
from tests.support.reading_containers import push_reading_image, reading_containers
from tests.support.registry import Registry

CONTAINERS = 2
ROUNDS = (0, 0, 0, 1)
"""Of reading between one of these and the next; without any, it meets what the last one has not finished."""


@pytest.fixture(scope="module")
def image(docker_registry: Registry) -> PushedImage:
    return push_reading_image(docker_registry, "kills/app")


@pytest.fixture
def node(short_tmp_path: Path) -> Iterator[Node]:
    node = Node(short_tmp_path, supervised=True)
    yield node.start()
    node.clean_up()


@pytest.mark.timeout(480)
def test_no_kill_is_seen_inside_containers(node: Node, image: PushedImage) -> None:
    node.pull(image.reference)
    rng = random.Random(5)
    kills, orders = _kills(node), _orders(node)
    assert sum(count for _, count in kills) >= 50
    everything = [do for do, count in kills + orders for _ in range(count)]
    rng.shuffle(everything)
    descriptors = _descriptors(node)
    with reading_containers(node, image, CONTAINERS) as containers:
        for at, do in enumerate(everything):
            rng.choice(containers).forget_pages()
            do()
            rng.choice(containers).read_on(rng.choice(ROUNDS))
            if at % 10 == 9:
                assert node.containerd.exec(rng.choice(containers).name, "echo", "here") == "here\n"
    assert min(container.rounds for container in containers) > 10
    now = _descriptors(node)
    assert len(now) <= len(descriptors) + 4, f"{descriptors}\n{now}"
    node.remove_everything([container.name for container in containers])
    node.stop()


def _kills(node: Node) -> list[tuple[Callable[[], None], int]]:
    """Of each kind so many."""

    def with_snapshotter(which: str) -> None:
        with node.mountd.killed(which):
            node.restart_snapshotter()

    def all_of_mountd() -> None:
        node.mountd.kill_all()
        node.mountd.start()

    return [
        (lambda: node.mountd.kill("server"), 11),
        (lambda: node.mountd.kill("supervisor"), 11),
        (node.restart_snapshotter, 6),
        (node.restart_containerd, 9),
        (lambda: with_snapshotter("server"), 5),
        (lambda: with_snapshotter("supervisor"), 5),
        (all_of_mountd, 3),
    ]


def _orders(node: Node) -> list[tuple[Callable[[], None], int]]:
    """What an administrator does, or systemd for him."""

    def restart_snapshotter() -> None:
        assert node.snapshotter.stop() == 0, node.snapshotter.log
        node.snapshotter.start()

    def replace_mountd() -> None:
        run_cafs("mountd", "--replace", *node.mountd.settings)

    return [(restart_snapshotter, 2), (node.restart_mountd, 2), (replace_mountd, 2)]


def _descriptors(node: Node) -> list[str]:
    """What the services have open."""
    pids = [node.mountd.pid("server"), node.mountd.pid("supervisor"), node.snapshotter.pid]
    return sorted(
        f"{pids.index(pid)} {entry.readlink()}" for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir()
    )
