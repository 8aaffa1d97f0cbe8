"""A node over its life: reboots, containerd away, images of 128 layers, user namespaces."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.container_images import (
    PushedImage,
    base_layer,
    content_of,
    data_layer,
    push_container_image,
)
from tests.support.idmapped import mounted_idmapped
from tests.support.mounts import mounts_below
from tests.support.node import CAFS, Node
from tests.support.program import run_cafs
from tests.support.registry import Registry
from tests.support.snapshotter import RunningSnapshotter
from tests.support.tars import make_tar, member

MANY = 128
FIRST_ID = 200_000


@pytest.fixture
def node(short_tmp_path: Path) -> Iterator[Node]:
    node = Node(short_tmp_path)
    yield node.start()
    node.clean_up()


@pytest.fixture(scope="module")
def image(docker_registry: Registry) -> PushedImage:
    image = push_container_image(docker_registry, "life/app", [base_layer(), data_layer(0), data_layer(1)])
    run_cafs("convert", image.reference)
    return image


def _name() -> str:
    return f"cafs-life-{os.urandom(4).hex()}"


def _sum(number: int) -> str:
    return hashlib.sha256(content_of(number, "large", 300_000)).hexdigest()


def test_reboot(node: Node, image: PushedImage) -> None:
    """Everything that lives in memory is gone at once: processes, mounts, /run. The disk stays as it is."""
    node.pull(image.reference)
    name = _name()
    node.containerd.run_detached(image.reference, name, "sleep", "1000", snapshotter=CAFS)
    node.containerd.exec(name, "sh", "-c", "echo kept > /etc/kept")
    node.lose_power()
    assert mounts_below(node.folder) == []
    node.start()
    node.containerd.ctr("task", "start", "--detach", "--null-io", name)
    told = node.containerd.exec(name, "sh", "-c", "cat /etc/kept; sha256sum < /data/1/large")
    assert told.split() == ["kept", _sum(1), "-"]
    assert len(node.lazy_mounts()) == 3
    node.remove_everything([name])
    node.stop()


def test_containers_read_while_containerd_is_away(node: Node, image: PushedImage) -> None:
    node.pull(image.reference)
    name = _name()
    node.containerd.run_detached(image.reference, name, "sleep", "1000", snapshotter=CAFS)
    root = node.containerd.merged_root(name)
    node.containerd.kill()
    node.snapshotter.kill()
    assert hashlib.sha256((root / "data/0/large").read_bytes()).hexdigest() == _sum(0)
    node.snapshotter.start()
    node.containerd.start()
    assert node.containerd.exec(name, "sha256sum", "/data/1/large").split()[0] == _sum(1)
    node.remove_everything([name])


@pytest.mark.parametrize("end", [RunningSnapshotter.stop, RunningSnapshotter.kill])
def test_garbage_goes_right_after_a_restart_of_the_snapshotter(
    short_tmp_path: Path, image: PushedImage, end: Callable[[RunningSnapshotter], object]
) -> None:
    """containerd asks for it once, and would not ask again if the socket had been away.

    Who asks meanwhile is answered by the next. Here we ask: containerd 1.6 gives up after a second, and how
    long a start takes is the machine's.
    """
    node = Node(short_tmp_path, supervised=True)
    try:
        node.start().pull(image.reference)
        before = set(node.snapshotter.client().names())
        end(node.snapshotter)
        with ThreadPoolExecutor() as beside:
            asked = beside.submit(node.snapshotter.client().names)
            node.snapshotter.start()
        assert set(asked.result()) == before != set()
        node.remove_everything([])
        node.stop()
    finally:
        node.clean_up()


def test_image_of_128_layers(node: Node, docker_registry: Registry) -> None:
    layers = [make_tar(member(f"layer-{number}", content=b"%d" % number)) for number in range(MANY - 1)]
    image = push_container_image(docker_registry, "life/many", [base_layer(), *layers])
    run_cafs("convert", image.reference)
    pulled = node.pull(image.reference, "--json").json
    assert (pulled["layers"], pulled["unpacked_layers"]) == (MANY, 0)
    count = "ls / | grep -c layer-; cat /layer-0 /layer-126"
    told = node.containerd.run(image.reference, _name(), "sh", "-c", count, snapshotter=CAFS)
    assert told == f"{MANY - 1}\n0126"
    node.remove_everything([])


def test_user_namespace_of_containerd_1(node: Node, image: PushedImage) -> None:
    """containerd 1.x copies the whole root to change its owners."""
    node.pull(image.reference)
    maps = ("--uidmap", f"0:{FIRST_ID}:65536", "--gidmap", f"0:{FIRST_ID}:65536")
    look = "cat /proc/self/uid_map; stat -c %u /bin/busybox; sha256sum < /data/1/large"
    for folder in (node.folder, node.folder.parent):
        folder.chmod(0o711)  # the container's root is nobody on the host, and has to reach its own
    told = node.containerd.run(image.reference, _name(), "sh", "-c", look, snapshotter=CAFS, options=maps)
    assert told.split() == ["0", str(FIRST_ID), "65536", "0", _sum(1), "-"]


def test_user_namespace_of_containerd_2(short_tmp_path: Path, image: PushedImage) -> None:
    """containerd 2.x maps the layers' mounts: nothing is copied."""
    node = Node(short_tmp_path)
    try:
        node.start().pull(image.reference)
        client = node.snapshotter.client()
        maps = {f"containerd.io/snapshot/{kind}mapping": f"0:{FIRST_ID}:65536" for kind in ("uid", "gid")}
        (top,) = [info.name for info in client.list() if not client.list(f'parent=="{info.name}"')]
        (overlay,) = client.prepare("pod", top, maps)
        assert overlay.type == "overlay"
        with mounted_idmapped(overlay.options, node.folder / "t", node.folder) as root:
            status = (root / "bin/busybox").stat()
            assert (status.st_uid, status.st_gid) == (FIRST_ID, FIRST_ID)
            as_root = ["setpriv", f"--reuid={FIRST_ID}", f"--regid={FIRST_ID}", "--clear-groups"]
            change = "cat data/1/large && echo mine > etc/mine"
            done = subprocess.run([*as_root, "sh", "-c", change], cwd=root, capture_output=True, check=True)
            assert hashlib.sha256(done.stdout).hexdigest() == _sum(1)
            assert (root / "etc/mine").stat().st_uid == FIRST_ID
        assert client.usage("pod")[0] < 100_000
        client.remove("pod")
    finally:
        node.clean_up()
