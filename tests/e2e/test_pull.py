"""``cafs pull`` into a real containerd, with overlayfs: containerd's own client is the oracle.

Everything twice: where the command runs all of it, and where a snapshotter has a process ready for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container_images import (
    PushedImage,
    base_layer,
    content_of,
    data_layer,
    push_container_image,
)
from tests.support.containerd import Containerd
from tests.support.faults import FaultyRegistry, FlipBit, Stall
from tests.support.oci import log_in
from tests.support.patience import PATIENCE_S
from tests.support.program import Outcome, cafs_command, run_cafs
from tests.support.registry import Registry
from tests.support.snapshotter import RunningSnapshotter, running_snapshotter

OVERLAY = ("--snapshotter", "overlayfs")


@pytest.fixture(scope="module")
def image(docker_registry: Registry) -> PushedImage:
    layers = [base_layer(), data_layer(0), data_layer(1)]
    return push_container_image(docker_registry, "pull/app", layers)


@pytest.fixture(params=["by the command", "by a process that was ready"], autouse=True)
def ready(
    request: pytest.FixtureRequest, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningSnapshotter | None]:
    """Whose commands pull: with a snapshotter in its run directory, the process that it keeps ready."""
    if request.param == "by the command":
        yield None
        return
    with running_snapshotter(short_tmp_path) as snapshotter:
        monkeypatch.setenv("CAFS_RUN_DIR", str(snapshotter.run))
        yield snapshotter
        assert "left to its own command" not in snapshotter.log


def _pull(containerd: Containerd, reference: str, *options: str, code: int = 0, **more: Any) -> Outcome:
    where = ("--address", str(containerd.address), *OVERLAY)
    return run_cafs("pull", reference, *where, *options, code=code, **more)


def _content(containerd: Containerd, namespace: str) -> dict[str, frozenset[str]]:
    """Every blob's digest with its labels."""
    listed = containerd.ctr("--namespace", namespace, "content", "ls").splitlines()[1:]
    # More than one tab, where a blob of "Less than a second" stands beside one of "2 seconds".
    fields = [re.split(r"\t+", line) for line in listed]
    return {found[0]: frozenset(found[3].split(",")) for found in fields}


def test_leaves_what_containerds_own_client_leaves(containerd: Containerd, docker_registry: Registry) -> None:
    layers = [base_layer(), data_layer(0)]
    made = push_container_image(docker_registry, "pull/same", layers, platforms=("arm64", "amd64"))
    containerd.ctr("--namespace", "theirs", "image", "pull", "--plain-http", made.reference)
    _pull(containerd, made.reference, "--namespace", "ours")
    assert _content(containerd, "ours") == _content(containerd, "theirs")
    for command in (("image", "ls"), ("snapshots", "ls"), ("leases", "ls")):
        ours, theirs = (
            containerd.ctr("--namespace", namespace, *command) for namespace in ("ours", "theirs")
        )
        assert ours == theirs


def test_pulled_image_runs_and_a_second_pull_does_nothing(containerd: Containerd, image: PushedImage) -> None:
    first = _pull(containerd, image.reference, "--json").json
    assert first["image"] == image.reference
    assert (first["layers"], first["unpacked_layers"]) == (3, 3)
    assert first["fetched_bytes"] == sum(layer.size for layer in image.layers)
    before = (_content(containerd, "default"), containerd.ctr("snapshots", "ls"))
    second = _pull(containerd, image.reference, "--json").json
    assert second == first | {"unpacked_layers": 0, "fetched_bytes": 0}
    assert (_content(containerd, "default"), containerd.ctr("snapshots", "ls")) == before
    told = containerd.run(image.reference, _name(), "sha256sum", "/data/1/large", snapshotter="overlayfs")
    assert told.split()[0] == _sha256(content_of(1, "large", 300_000))
    gone = containerd.run(image.reference, _name(), "ls", "/data/0", snapshotter="overlayfs")
    assert gone.split() == ["large"]


def test_a_moved_tag_is_followed(containerd: Containerd, docker_registry: Registry) -> None:
    old = push_container_image(docker_registry, "pull/moves", [base_layer()])
    _pull(containerd, old.reference)
    new = push_container_image(docker_registry, "pull/moves", [base_layer(), data_layer(5)])
    assert _pull(containerd, new.reference, "--json").json["digest"] == new.target.digest
    assert new.target.digest in containerd.ctr("image", "ls")
    assert old.target.digest not in containerd.ctr("image", "ls")


def test_by_digest_and_platform(containerd: Containerd, docker_registry: Registry) -> None:
    made = push_container_image(docker_registry, "pull/multi", [base_layer()], platforms=("arm64", "amd64"))
    pinned = made.reference.rpartition(":")[0] + f":v1@{made.target.digest}"
    done = _pull(containerd, pinned, "--platform", "linux/arm64", "--json").json
    assert done["image"] == made.reference.rpartition(":")[0] + f"@{made.target.digest}"
    assert made.manifest.digest in _content(containerd, "default")
    told = _pull(containerd, made.reference, "--platform", "linux/s390x", code=1).err
    assert "no image for linux/s390x; it has: linux/amd64, linux/arm64" in told
    lone = push_container_image(docker_registry, "pull/lone", [base_layer()])
    told = _pull(containerd, lone.reference, "--platform", "linux/s390x", code=1).err
    assert "no image for linux/s390x: its only one is for linux/amd64" in told


def test_kubernetes_namespace_marks_the_image_for_cri(containerd: Containerd, image: PushedImage) -> None:
    _pull(containerd, image.reference, "--namespace", "k8s.io")
    listed = containerd.ctr("--namespace", "k8s.io", "image", "ls")
    assert "io.cri-containerd.image=managed" in listed


def test_removed_image_is_collected(containerd: Containerd, image: PushedImage) -> None:
    _pull(containerd, image.reference)
    containerd.collect_garbage()
    assert len(_content(containerd, "default")) == 5
    containerd.ctr("image", "rm", "--sync", image.reference)
    assert _content(containerd, "default") == {}
    assert containerd.ctr("snapshots", "ls").splitlines()[1:] == []


def test_credentials_are_used(
    containerd: Containerd,
    basic_registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(tmp_path, monkeypatch, basic_registry.host)
    made = push_container_image(basic_registry, "private/app", [base_layer()])
    _pull(containerd, made.reference)
    log_in(tmp_path, monkeypatch, basic_registry.host, password="wrong")
    told = _pull(containerd, made.reference.replace("v1", "v2"), code=1).err
    assert re.search(r"^cafs: .*(401|not allowed|refused)", told), told


def test_interrupted_pull_leaves_nothing(
    containerd: Containerd, image: PushedImage, faulty_registry: FaultyRegistry
) -> None:
    reference = image.reference.replace(image.reference.partition("/")[0], faulty_registry.host)
    faulty_registry.fail(Stall(after=1000), path=f"blobs/{image.layers[1].digest}")
    command = cafs_command("pull", reference, "--address", containerd.address, *OVERLAY)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        faulty_registry.wait_until_asked(f"blobs/{image.layers[1].digest}")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, told.splitlines()[-1]) == (130, "cafs: interrupted")
    assert containerd.ctr("leases", "ls").splitlines()[1:] == []
    assert containerd.ctr("content", "active").splitlines()[1:] == []
    containerd.collect_garbage()
    assert _content(containerd, "default") == {}
    assert containerd.ctr("snapshots", "ls").splitlines()[1:] == []
    assert containerd.ctr("image", "ls").splitlines()[1:] == []


def test_damaged_layer_is_refused_and_nothing_kept(
    containerd: Containerd, image: PushedImage, faulty_registry: FaultyRegistry
) -> None:
    reference = image.reference.replace(image.reference.partition("/")[0], faulty_registry.host)
    faulty_registry.fail(FlipBit(8000), path=f"blobs/{image.layers[2].digest}")
    told = _pull(containerd, reference, code=3).err
    assert (
        f"{image.layers[2].digest} of docker://{faulty_registry.host}/pull/app does not match its digest"
        in told
    )
    assert containerd.ctr("image", "ls").splitlines()[1:] == []
    assert containerd.ctr("content", "active").splitlines()[1:] == []


def test_two_pulls_at_once_download_once(
    containerd: Containerd,
    image: PushedImage,
    faulty_in_front: Callable[[Registry], FaultyRegistry],
    docker_registry: Registry,
) -> None:
    watched = faulty_in_front(docker_registry)
    reference = image.reference.replace(docker_registry.host, watched.host)
    command = cafs_command("pull", reference, "--address", containerd.address, *OVERLAY)
    pulls = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in pulls:
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
    for layer in image.layers:
        wanted = f"blobs/{layer.digest}"
        assert len([r for r in watched.settled() if r.method == "GET" and wanted in r.path]) == 1


def test_says_what_is_missing(containerd: Containerd, image: PushedImage, tmp_path: Path) -> None:
    nowhere = run_cafs("pull", image.reference, "--address", tmp_path / "none.sock", code=1).err
    assert nowhere == (
        f"cafs: no containerd answers at {tmp_path}/none.sock (No such file or directory): start it,"
        " or name its socket with --address\n"
    )
    unknown = run_cafs(
        "pull", image.reference, "--address", containerd.address, "--snapshotter", "no", code=1
    ).err
    assert "has no snapshotter 'no': add what 'cafs snapshotter --print-config' prints" in unknown
    assert "lies in no registry" in run_cafs("pull", "dir:/tmp", code=2).err
    assert (
        run_cafs("pull", image.reference + "-no", "--address", containerd.address, code=1).err.count("\n")
        == 1
    )


def _name() -> str:
    return f"cafs-test-{os.urandom(4).hex()}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_json_is_json(containerd: Containerd, image: PushedImage) -> None:
    assert json.loads(_pull(containerd, image.reference, "--json", "--quiet").out)["layers"] == 3


def test_content_brings_missing_blobs_for_export_and_push(containerd: Containerd, image: PushedImage) -> None:
    _pull(containerd, image.reference)
    missing = [layer.digest for layer in image.layers[:2]]
    containerd.ctr("content", "rm", *missing)
    archive = containerd.folder / "image.tar"
    told = containerd.ctr("image", "export", archive, image.reference, code=1)
    assert re.search(r"content digest sha256:\w+: not found", told)
    _pull(containerd, image.reference)
    assert not set(missing) & _content(containerd, "default").keys()
    done = _pull(containerd, image.reference, "--content", "--json").json
    assert done["fetched_bytes"] == sum(layer.size for layer in image.layers[:2])
    containerd.ctr("image", "export", archive, image.reference)
    containerd.collect_garbage()
    assert set(missing) <= _content(containerd, "default").keys()
    assert _pull(containerd, image.reference, "--content", "--json").json["fetched_bytes"] == 0
