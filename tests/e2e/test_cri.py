"""Kubernetes' way in: pulls, pods and containers over CRI's socket, with cafs as its snapshotter."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container_images import (
    PushedImage,
    base_layer,
    content_of,
    data_layer,
    push_container_image,
)
from tests.support.containerd import CriSetup
from tests.support.cri import Kubelet
from tests.support.node import Node
from tests.support.program import run_cafs
from tests.support.registry import Registry


@pytest.fixture(scope="module")
def pause(docker_registry: Registry) -> PushedImage:
    return push_container_image(docker_registry, "cri/pause", [base_layer()], command=["/bin/sleep", "10000"])


@pytest.fixture(scope="module")
def converted(docker_registry: Registry) -> PushedImage:
    image = push_container_image(
        docker_registry, "cri/converted", [base_layer(), data_layer(0), data_layer(1)]
    )
    run_cafs("convert", image.reference)
    return image


@pytest.fixture
def node(short_tmp_path: Path, pause: PushedImage) -> Iterator[Node]:
    node = Node(short_tmp_path, CriSetup(pause.reference))
    yield node.start()
    node.clean_up()


@pytest.fixture
def kubelet(node: Node) -> Iterator[Kubelet]:
    kubelet = Kubelet(node.containerd.address, node.folder)
    yield kubelet
    kubelet.close()


def test_pull_image_is_lazy_and_a_pod_runs(node: Node, kubelet: Kubelet, converted: PushedImage) -> None:
    kubelet.pull(converted.reference)
    assert len(node.lazy_mounts()) == 3
    blobs = node.containerd.ctr("content", "ls", "-q").split()
    assert not {layer.digest for layer in converted.layers} & set(blobs)
    with kubelet.pod() as pod:
        container = pod.start("app", converted.reference, "sleep", "1000")
        told = pod.exec(container, "sha256sum", "/data/1/large").split()[0]
        assert told == hashlib.sha256(content_of(1, "large", 300_000)).hexdigest()
        assert pod.exec(container, "ls", "/data/0").split() == ["large"]
        pod.exec(container, "sh", "-c", "rm -r /data && echo new > /new")
    for image in kubelet.images():
        kubelet.remove_image(image.repo_tags[0])
    node.containerd.collect_garbage()
    assert node.lazy_mounts() == []
    node.mountd.wait_until_empty()
    node.stop()


def test_cafs_pull_and_cri_see_the_same_image(node: Node, kubelet: Kubelet, converted: PushedImage) -> None:
    node.pull(converted.reference)
    (image,) = [i for i in kubelet.images() if converted.reference in i.repo_tags]
    assert image.id == kubelet.pull(converted.reference)
    with kubelet.pod() as pod:
        container = pod.start("app", converted.reference, "sleep", "1000")
        assert pod.exec(container, "ls", "/data").split() == ["0", "1"]


def test_unconverted_image_through_cri(node: Node, kubelet: Kubelet, docker_registry: Registry) -> None:
    layers = [base_layer(), data_layer(7)]
    image = push_container_image(docker_registry, f"cri/plain-{os.urandom(3).hex()}", layers)
    kubelet.pull(image.reference)
    assert node.lazy_mounts() == []
    with kubelet.pod() as pod:
        container = pod.start("app", image.reference, "sleep", "1000")
        assert pod.exec(container, "ls", "/data/7").split() == ["gone-in-the-next", "large"]
