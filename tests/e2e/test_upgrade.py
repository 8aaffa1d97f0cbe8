"""The package is upgraded while containers read: docs/operations.md, "Upgrade, with containers running"."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cafs import __version__
from tests.support.container_images import PushedImage
from tests.support.mounts import ROOT
from tests.support.node import CAFS, Node
from tests.support.peers import wait_for
from tests.support.reading_containers import push_reading_image, reading_containers
from tests.support.registry import Registry


@pytest.fixture(scope="module")
def image(docker_registry: Registry) -> PushedImage:
    return push_reading_image(docker_registry, "upgrade/app")


@pytest.fixture
def node(short_tmp_path: Path) -> Iterator[Node]:
    """Whose services run code of their own."""
    node = Node(short_tmp_path, supervised=True)
    node.mountd.code = node.snapshotter.code = short_tmp_path / "code"
    install(node, version(0))
    yield node.start()
    node.clean_up()


def version(number: int) -> str:
    return f"{__version__}+test.{number}"


def install(node: Node, told_version: str) -> None:
    """As pip does: where the files of one version were, those of another are, whoever runs meanwhile."""
    package = node.mountd.code / "cafs"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "cafs", package)
    code = (package / "__init__.py").read_text()
    (package / "__init__.py").write_text(code.replace(f'"{__version__}"', f'"{told_version}"'))


def restart(node: Node) -> None:
    """``systemctl restart cafs-mountd cafs-snapshotter``, in the order of the units."""
    assert node.snapshotter.stop() == 0, node.snapshotter.log
    node.restart_mountd()
    node.snapshotter.start()


def kill_all(node: Node) -> None:
    """Nothing ends in order, and systemd starts everything again."""
    node.snapshotter.kill()
    node.mountd.kill_all()
    node.mountd.start()
    node.snapshotter.start()


@pytest.mark.parametrize("change", [restart, kill_all])
def test_containers_read_on_with_the_new_code(
    node: Node, image: PushedImage, change: Callable[[Node], None]
) -> None:
    node.pull(image.reference)
    with reading_containers(node, image, count=2) as containers:
        for container in containers:
            container.read_on(1)
        assert serving(node) == {version(0)}
        install(node, version(1))
        for container in containers:
            container.forget_pages()
            container.read_on(1)
        assert serving(node) == {version(0)}, "what runs is still the old code"
        change(node)
        wait_for(lambda: serving(node) == {version(1)}, "the new code")
        for container in containers:
            container.forget_pages()
            container.read_on(2)  # one of which began now
            assert node.containerd.exec(container.name, "echo", "here") == "here\n"
        assert node.mountd.client().status()["chunks"]["reads"] > 0
        check = ("sha256sum", "-c", "-s", "/sums")
        node.containerd.run(image.reference, f"new-{containers[0].name}", *check, snapshotter=CAFS)
    assert "taking over the session that was handed over" in node.mountd.log
    node.remove_everything([container.name for container in containers])
    node.stop()


def serving(node: Node) -> set[str]:
    """The versions of both services: as long as one of them begins, it may be the one that was."""
    told = str(node.mountd.client().status()["version"])
    return {told, re.findall(r"version (\S+) serves on ", node.snapshotter.log)[-1]}
