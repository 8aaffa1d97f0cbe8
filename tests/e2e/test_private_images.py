"""A private image under Kubernetes: the pull secret comes by CRI, and serves while the container runs."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.container_images import (
    PushedImage,
    base_layer,
    content_of,
    data_layer,
    push_container_image,
)
from tests.support.containerd import CriSetup
from tests.support.cri import Kubelet
from tests.support.faults import ExpireToken, FaultyRegistry
from tests.support.node import Node
from tests.support.oci import log_in
from tests.support.patience import PATIENCE_S
from tests.support.program import run_cafs
from tests.support.registry import NEXT_PASSWORD, PASSWORD, USER, Registry, start_registry
from tests.support.tokens import TokenServer

LAYERS = 3


@pytest.fixture(params=["basic_registry", "token_registry"])
def private(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PushedImage:
    """Pushed and converted by somebody who may; the node has no credentials of its own."""
    registry: Registry = request.getfixturevalue(request.param)
    log_in(tmp_path, monkeypatch, registry.host)
    layers = [base_layer(), data_layer(0), data_layer(1)]
    image = push_container_image(registry, "private/app", layers)
    run_cafs("convert", image.reference)
    monkeypatch.delenv("DOCKER_CONFIG")
    return image


@pytest.fixture
def node(short_tmp_path: Path, docker_registry: Registry) -> Iterator[Node]:
    command = ["/bin/sleep", "10000"]
    pause = push_container_image(docker_registry, "private/pause", [base_layer()], command=command)
    node = Node(short_tmp_path, CriSetup(pause.reference))
    proxy = ("--cri-proxy", str(node.containerd.address), "--metrics", "127.0.0.1:0")
    node.snapshotter.options = proxy
    node.mountd.options = ("--prefetch=none",)
    yield node.start()
    node.clean_up()


@pytest.fixture
def kubelet(node: Node) -> Iterator[Kubelet]:
    """With ``--image-service-endpoint`` at the snapshotter, and containerd for the rest."""
    kubelet = Kubelet(node.containerd.address, node.folder)
    yield kubelet
    kubelet.close()


def test_a_pull_secret_opens_the_image_and_outlives_the_mount_server(
    node: Node, kubelet: Kubelet, private: PushedImage
) -> None:
    images = Kubelet(node.snapshotter.address, node.folder)
    with pytest.raises(grpc.RpcError):
        images.pull(private.reference)
    with pytest.raises(grpc.RpcError):
        images.pull(private.reference, username=USER, password="not the password")
    images.pull(private.reference, username=USER, password=PASSWORD)
    assert private.reference in [tag for image in images.images() for tag in image.repo_tags]
    images.close()
    assert len(node.lazy_mounts()) == LAYERS
    with kubelet.pod() as pod:
        container = pod.start("app", private.reference, "sleep", "1000")
        os.kill(node.mountd.pid("server"), signal.SIGKILL)
        told = pod.exec(container, "sha256sum", "/data/1/large").split()[0]
        assert told == hashlib.sha256(content_of(1, "large", 300_000)).hexdigest()
        check_ps(node, private, container)
    figures = metrics(node)
    assert figures["cafs_snapshotter_lazy_layers_total", ""] == LAYERS
    assert figures["cafs_snapshotter_calls_total", "Prepare ALREADY_EXISTS"] == LAYERS
    assert figures["cafs_snapshotter_layers_mounted", ""] == LAYERS
    assert figures["cafs_mountd_layers", ""] == LAYERS
    assert figures["cafs_mountd_fetched_bytes_total", f"docker://{private.reference.rpartition(':')[0]}"] > 0
    for log in (node.snapshotter.log, node.mountd.log):
        assert PASSWORD not in log
        assert "not the password" not in log
    assert f"image={private.reference.rpartition(':')[0]}" in node.snapshotter.log
    assert f"image={private.reference}" in node.mountd.log


@dataclass(frozen=True)
class Expiring:
    """A private image in a registry of its own, where credentials end."""

    image: PushedImage
    registry: Registry
    front: FaultyRegistry
    tokens: TokenServer | None
    """Basic authentication has none."""

    def end_tokens(self) -> None:
        """Those that the mount server has; its password is as good as before."""
        if self.tokens is not None:
            self.front.fail(ExpireToken(), path="/blobs/", times=1)

    def change_password(self) -> None:
        """It is ``NEXT_PASSWORD``, and tokens that the old one has brought have ended."""
        if self.tokens is None:
            self.registry.change_password()
        else:
            self.tokens.password = NEXT_PASSWORD
            self.end_tokens()

    def refused(self) -> int:
        """How often the bytes of a layer were refused."""
        return sum(asked.status == 401 and "/blobs/" in asked.path for asked in self.front.settled())


@pytest.fixture(params=["basic", "token"])
def expiring(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Expiring]:
    tokens = TokenServer(tmp_path / "tokens") if request.param == "token" else None
    registry = start_registry(
        tmp_path / "registry", basic_auth=tokens is None, tokens=tokens.service if tokens else None
    )
    with FaultyRegistry(registry.host) as front:
        log_in(tmp_path, monkeypatch, front.host)
        layers = [base_layer(), *(data_layer(number) for number in range(LAYERS))]
        image = push_container_image(replace(registry, host=front.host), "expiring/app", layers)
        run_cafs("convert", image.reference)
        monkeypatch.delenv("DOCKER_CONFIG")
        front.forget()
        yield Expiring(image, registry, front, tokens)
    registry.stop()
    if tokens is not None:
        tokens.stop()


def test_a_pull_secret_that_expires_while_the_container_runs(
    node: Node, kubelet: Kubelet, expiring: Expiring
) -> None:
    """Tokens are got anew unseen. A password is not: reads fail, until a pull brings the one that counts."""
    images, reference = Kubelet(node.snapshotter.address, node.folder), expiring.image.reference
    images.pull(reference, username=USER, password=PASSWORD)
    with kubelet.pod() as pod:
        container = pod.start("app", reference, "sleep", "1000")

        def told_sum(number: int) -> str:
            return pod.exec(container, "sha256sum", f"/data/{number}/large").split()[0]

        assert told_sum(0) == hashlib.sha256(content_of(0, "large", 300_000)).hexdigest()
        assert expiring.refused() == 0
        expiring.end_tokens()
        assert told_sum(1) == hashlib.sha256(content_of(1, "large", 300_000)).hexdigest()
        assert expiring.refused() == (expiring.tokens is not None)
        expiring.change_password()
        assert "Input/output error" in pod.exec(container, "sha256sum", "/data/2/large", code=1)
        images.pull(reference, username=USER, password=NEXT_PASSWORD)
        assert told_sum(2) == hashlib.sha256(content_of(2, "large", 300_000)).hexdigest()
    images.close()
    for log in (node.snapshotter.log, node.mountd.log):
        assert PASSWORD not in log
        assert NEXT_PASSWORD not in log


def check_ps(node: Node, image: PushedImage, container: str) -> None:
    """Layers, images, containers; and what is left of that with the mount server alone."""
    sockets = ("--address", node.containerd.address, "--snapshotter", node.snapshotter.address)
    document = run_cafs("ps", "--json", *sockets, *node.mountd.settings).json
    shown = {layer["layer"]: layer for layer in document["layers"]}
    assert shown.keys() == {layer.digest for layer in image.layers}
    for layer in shown.values():
        assert container in [found["id"] for found in layer["containers"]]
        assert [found["image"] for found in layer["images"]] == [image.reference]
        assert 0 <= layer["here_bytes"] <= layer["data_bytes"]
    assert document["containers_known"]
    text = run_cafs("ps", *sockets, *node.mountd.settings).out
    assert f"k8s.io/{container[:12]}" in text
    assert image.reference in text
    assert f"{LAYERS} layers, " in text
    alone = run_cafs("ps", "--address=/nowhere", "--snapshotter=/nowhere", *node.mountd.settings)
    assert "which containers use them is not known: " in alone.err
    assert image.reference in alone.out


def metrics(node: Node) -> dict[tuple[str, str], float]:
    """What Prometheus would scrape, by name and label values; without buckets."""
    (port,) = re.findall(r"metrics on port (\d+)", node.snapshotter.log)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }
