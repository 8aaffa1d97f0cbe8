"""The mount server and registries that are private, or turn hostile once a layer is mounted."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cafs.control_socket.protocol import CREDENTIALS_PATH, Reason, RefusedError, encode_json
from tests.support.faults import ExpireToken, Fault, FaultyRegistry, FlipBit, Stall, Status
from tests.support.mountd import MountServer, PushedImage, erofs, mount_server, push_image, sums_of
from tests.support.mounts import forget_pages
from tests.support.oci import log_in
from tests.support.registry import PASSWORD, USER, Registry

QUICK = ("--prefetch=none", "--set=read_deadline_s=3", "--set=stall_timeout_s=1", "--set=retries=0")


def bring(server: MountServer, image: PushedImage, password: str) -> None:
    host, _, rest = image.reference.partition("/")
    body = {"host": host, "image": f"{host}/{rest}", "username": USER, "secret": password}
    server.client.ask("PUT", CREDENTIALS_PATH, encode_json(body))


@pytest.fixture(params=["basic_registry", "token_registry"])
def private(
    request: pytest.FixtureRequest,
    faulty_in_front: Callable[[Registry], FaultyRegistry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> FaultyRegistry:
    """A registry that wants credentials; the pusher has them, the mount server not."""
    front = faulty_in_front(request.getfixturevalue(request.param))
    log_in(tmp_path, monkeypatch, front.host)
    return front


def test_pull_secrets_open_a_private_image_and_outlive_the_server(
    private: FaultyRegistry, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = push_image(private.host, short_tmp_path, repository="mountd/private", layers=2)
    monkeypatch.setenv("DOCKER_CONFIG", str(short_tmp_path / "nobody"))
    with mount_server(short_tmp_path, *QUICK) as server:
        with pytest.raises(RefusedError) as refused:
            server.client.add_layer(image.layer(0))
        assert refused.value.reason is Reason.UNAUTHORIZED
        bring(server, image, "not the password")
        with pytest.raises(RefusedError) as refused:
            server.client.add_layer(image.layer(0))
        assert refused.value.reason is Reason.UNAUTHORIZED
        bring(server, image, PASSWORD)
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            assert (root / "f0").read_bytes()
            server.kill("server")
            assert sums_of(root) == image.sums[0], "the next server knows what was brought to the last"
        assert PASSWORD not in server.log
        assert "not the password" not in server.log
        with pytest.raises(RefusedError, match="neither user nor token"):
            server.client.ask("PUT", CREDENTIALS_PATH, encode_json({"host": "a.io"}))


@pytest.mark.parametrize(
    ("private", "is_password"),
    [("basic_registry", True), ("token_registry", False)],
    ids=["password", "token"],
    indirect=["private"],
)
def test_what_expires_under_a_mount(
    private: FaultyRegistry, is_password: bool, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = push_image(private.host, short_tmp_path, repository="mountd/expires")
    monkeypatch.setenv("DOCKER_CONFIG", str(short_tmp_path / "nobody"))
    with mount_server(short_tmp_path, *QUICK) as server:
        bring(server, image, PASSWORD)
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            private.forget()
            private.fail(ExpireToken(), path="/blobs/", times=1)
            if is_password:
                with pytest.raises(OSError, match="Input/output error"):
                    sums_of(root)
                private.heal()  # as when it is renewed: what was refused once is shown again
            assert sums_of(root) == image.sums[0]
            assert [asked for asked in private.settled() if asked.status == 401], "it has expired, then"


@pytest.mark.parametrize(
    "fault",
    [Status(401, {"WWW-Authenticate": 'Basic realm="x"'}), Status(403), Status(404), FlipBit(100), Stall(5)],
    ids=["401", "403", "404", "lies", "stalls"],
)
def test_a_registry_that_turns_hostile_before_the_first_read(
    faulty_registry: FaultyRegistry, short_tmp_path: Path, fault: Fault
) -> None:
    """An error for the reader in bounded time, never a wrong byte; the mount lives on and is well later."""
    image = push_image(faulty_registry.host, short_tmp_path, repository="mountd/hostile")
    with mount_server(short_tmp_path, *QUICK) as server:
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            faulty_registry.fail(fault, path="/blobs/")
            began = time.monotonic()
            with pytest.raises(OSError, match=r"\[Errno") as failed:
                sums_of(root)
            assert failed.value.errno in {errno.EIO, errno.ETIMEDOUT}
            assert time.monotonic() - began < 40
            assert {path.name for path in root.iterdir()} == image.sums[0].keys()
            assert server.client.status()["chunks"]["failed_reads"] > 0
            assert f"layer={image.layer(0).layer}" in server.log
            faulty_registry.heal()
            assert sums_of(root) == image.sums[0]


def test_a_full_disk_under_the_store_costs_storing_only(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/full", files=120)
    (short_tmp_path / "cache").mkdir()
    disk = ["mount", "-t", "tmpfs", "-o", "size=4m", "cafs-test-disk", short_tmp_path / "cache"]
    subprocess.run(disk, check=True)  # unmounted with all below the path
    with mount_server(short_tmp_path, "--prefetch=none") as server:
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            assert sums_of(root) == image.sums[0]
            forget_pages([server.file(added), *root.iterdir()])
            assert sums_of(root) == image.sums[0]
            server.kill("server")
            forget_pages([server.file(added), *root.iterdir()])
            assert sums_of(root) == image.sums[0]
        assert "full" in server.log or "No space" in server.log


def test_metrics_tell_what_was_read_and_where_it_came_from(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/metrics")
    with mount_server(short_tmp_path, "--prefetch=none") as server:
        before = samples(server)
        assert (before["cafs_mountd_layers", ""], before["cafs_mountd_reads_total", ""]) == (0, 0)
        with pytest.raises(RefusedError):
            server.client.add_layer(image.layer(7))
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            assert sums_of(root) == image.sums[0]
            after = samples(server)
    assert after["cafs_mountd_chunk_reads_total", "registry"] > 0
    assert after["cafs_mountd_chunk_reads_total", "store"] == 0
    assert after["cafs_mountd_read_bytes_total", ""] >= added.data_bytes
    assert after["cafs_mountd_layers", ""] == after["cafs_mountd_layers_held", ""] == 1
    assert after["cafs_mountd_adds_total", ""] == after["cafs_mountd_add_seconds_count", ""] == 1
    assert sum(value for (name, _), value in after.items() if name == "cafs_mountd_add_failures_total") == 1
    source = f"docker://{docker_registry.host}/mountd/metrics"
    assert after["cafs_mountd_fetched_bytes_total", source] > 0
    assert after["cafs_mountd_fetch_seconds_count", "demand"] > 0
    assert after["cafs_mountd_read_wait_seconds_count", ""] > 0
    assert after["cafs_mountd_read_failures_total", ""] == 0


def samples(server: MountServer) -> dict[tuple[str, str], float]:
    """By name and the value of the only label, if there is one; without buckets."""
    families = text_string_to_metric_families(server.client.metrics().decode())
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }
