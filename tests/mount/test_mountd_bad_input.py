"""What the mount server does with requests, images, registries and disks that are not as they should be."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import zstandard

from cafs.control_socket.protocol import AddedLayer, AddLayer, Reason, RefusedError
from cafs.core.digest import Digest
from cafs.core.settings import Settings
from cafs.oci.artifact import publish_artifact
from cafs.oci.registry.repository import RegistryRepository
from tests.support.converted import make_layer, push_converted
from tests.support.faults import Fault, FaultyRegistry, FlipBit, Stall, Status
from tests.support.mountd import MountServer, erofs, mount_server, push_image, sums_of
from tests.support.oci import push_bytes
from tests.support.oci import push_image as push_plain_image
from tests.support.program import run_cafs
from tests.support.registry import Registry

NOTHING = Digest("sha256:" + "0" * 64)


def refused(server: MountServer, wanted: AddLayer) -> RefusedError:
    with pytest.raises(RefusedError) as failed:
        server.client.add_layer(wanted)
    assert "\n" not in str(failed.value)
    return failed.value


def asked(server: MountServer, method: str, path: str, body: bytes = b"") -> Reason:
    with pytest.raises(RefusedError) as failed:
        server.client.ask(method, path, body)
    return failed.value.reason


@pytest.fixture
def server(short_tmp_path: Path) -> Iterator[MountServer]:
    with mount_server(short_tmp_path) as running:
        yield running
        assert running.client.status()["layers"] == 0


def test_requests_that_make_no_sense(server: MountServer) -> None:
    good = {"image": "localhost:1/a:v1", "manifest": NOTHING, "layer": NOTHING}
    for body in (
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**good, "layer": "sha256:zz"}).encode(),
        json.dumps({**good, "manifest": 7}).encode(),
        json.dumps({**good, "image": ["a"]}).encode(),
        json.dumps({**good, "image": "A B"}).encode(),
        json.dumps({**good, "image": "x" * 5000}).encode(),
        json.dumps({**good, "image": "oci:/etc"}).encode(),
        json.dumps({**good, "image": "dir:/"}).encode(),
        json.dumps({**good, "chain": "sha256:"}).encode(),
        json.dumps({**good, "surprise": 1}).encode(),
    ):
        assert asked(server, "POST", "/layers", body) is Reason.BAD_REQUEST, body[:100]
    for name in ("x", "..%2f..%2fetc", "A" * 64, "0" * 63, "0" * 64 + "/"):
        assert asked(server, "DELETE", f"/layers/{name}") is Reason.BAD_REQUEST
    assert asked(server, "GET", "/") is Reason.UNKNOWN
    assert asked(server, "PATCH", "/layers") is Reason.BAD_REQUEST
    for body in (b"", b"{}", b'{"host": "example.org"}', b'{"host": 7, "username": "u"}'):
        assert asked(server, "PUT", "/credentials", body) in {Reason.BAD_REQUEST, Reason.INVALID}
    server.client.remove_layer("0" * 64)


def test_images_that_are_not_there_or_not_converted(docker_registry: Registry, server: MountServer) -> None:
    host = docker_registry.host
    missing = refused(server, AddLayer(f"{host}/mountd/nothing:v1", NOTHING, NOTHING))
    assert missing.reason is Reason.NOT_CONVERTED

    async def push() -> Digest:
        repository = repository_of(host, "mountd/plain", server.path)
        try:
            return (await push_plain_image(repository, [b"a layer"], "v1")).digest
        finally:
            await repository.aclose()

    plain = refused(server, AddLayer(f"{host}/mountd/plain:v1", trio.run(push), NOTHING))
    assert plain.reason is Reason.NOT_CONVERTED
    assert "cafs convert" in str(plain)


def test_layers_that_do_not_belong(docker_registry: Registry, server: MountServer) -> None:
    image = push_image(docker_registry.host, server.path, repository="mountd/other", layers=2)
    wanted = image.layer(1)
    assert refused(server, replace(wanted, layer=NOTHING)).reason is Reason.NOT_CONVERTED
    assert refused(server, replace(wanted, chain=NOTHING)).reason is Reason.INVALID
    first, second = image.layer(0).layer, image.layer(1).layer
    chain = Digest("sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest())
    added = server.client.add_layer(replace(wanted, chain=chain))
    server.client.remove_layer(added.name)


def repository_of(host: str, name: str, folder: Path) -> RegistryRepository:
    return RegistryRepository(host, name, Settings(cache_dir=folder, run_dir=folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"index_digest": NOTHING},
        {"index_size": 77},
        {"index_size": 1 << 40},
        {"diff_id": NOTHING},
    ],
    ids=str,
)
def test_artifacts_that_lie(
    docker_registry: Registry, server: MountServer, changes: dict[str, object]
) -> None:
    made = make_layer(1)
    name = "mountd/lies" + hashlib.sha256(repr(changes).encode()).hexdigest()[:6]

    async def push() -> Digest:
        repository = repository_of(docker_registry.host, name, server.path)
        try:
            image = await push_plain_image(repository, [made.layer], "v1")
            await push_bytes(repository, made.packed)
            await push_bytes(repository, made.content)
            await publish_artifact(repository, image, [made.artifact_layer(**changes)])
            return image.digest
        finally:
            await repository.aclose()

    manifest = trio.run(push)
    layer = Digest("sha256:" + hashlib.sha256(made.layer).hexdigest())
    failed = refused(server, AddLayer(f"{docker_registry.host}/{name}:v1", manifest, layer))
    assert failed.reason is Reason.INVALID


def test_an_index_that_breaks_the_format(docker_registry: Registry, server: MountServer) -> None:
    """Its digest is right: whoever made it lies."""
    made = make_layer(2)
    damaged = bytearray(made.index_file)
    damaged[len(damaged) // 2] ^= 0xFF
    damaged[4096 + 1024 + 16] ^= 0xFF
    liar = replace(made, index_file=bytes(damaged), packed=zstandard.compress(bytes(damaged)))

    async def push() -> Digest:
        repository = repository_of(docker_registry.host, "mountd/hostile", server.path)
        try:
            return (await push_converted(repository, [liar]))[0].digest
        finally:
            await repository.aclose()

    layer = Digest("sha256:" + hashlib.sha256(made.layer).hexdigest())
    failed = refused(server, AddLayer(f"{docker_registry.host}/mountd/hostile:v1", trio.run(push), layer))
    assert failed.reason is Reason.INVALID


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        (Status(503), "/manifests/"),
        (Stall(headers=False), "/manifests/"),
        (FlipBit(800), "/manifests/"),
        (Status(500), "/blobs/"),
        (FlipBit(300), "/blobs/"),
    ],
    ids=str,
)
def test_registries_that_fail_keep_nobody_waiting_and_may_recover(
    docker_registry: Registry, short_tmp_path: Path, fault: Fault, path: str
) -> None:
    name = "mountd/fails" + hashlib.sha256(f"{fault}{path}".encode()).hexdigest()[:6]
    image = push_image(docker_registry.host, short_tmp_path, repository=name)
    with FaultyRegistry(docker_registry.host) as faulty, mount_server(short_tmp_path) as server:
        wanted = replace(image.layer(0), image=f"{faulty.host}/{name}:v1")
        faulty.fail(fault, path=path)
        began = time.monotonic()
        assert refused(server, wanted).reason in {Reason.UNREACHABLE, Reason.INVALID}
        assert time.monotonic() - began < 8
        began = time.monotonic()
        refused(server, wanted)
        assert time.monotonic() - began < 8
        faulty.heal()
        added = add_in_the_end(server, wanted)
        with erofs(server, added, short_tmp_path / "e") as root:
            assert sums_of(root) == image.sums[0]


def add_in_the_end(server: MountServer, wanted: AddLayer) -> AddedLayer:
    give_up = time.monotonic() + 20
    while True:
        try:
            return server.client.add_layer(wanted)
        except RefusedError:  # what had failed is remembered for a few seconds
            assert time.monotonic() < give_up


def test_a_registry_that_nobody_runs(server: MountServer) -> None:
    wanted = AddLayer("127.0.0.1:1/a:v1", NOTHING, NOTHING)
    began = time.monotonic()
    assert refused(server, wanted).reason is Reason.UNREACHABLE
    first_s = time.monotonic() - began
    began = time.monotonic()
    for _ in range(20):
        assert refused(server, wanted).reason is Reason.UNREACHABLE
    assert first_s < 6
    assert time.monotonic() - began < 2, "the other layers of the image need not find out anew"


def test_a_second_mount_server_is_refused(server: MountServer) -> None:
    told = run_cafs("mountd", "--run", server.run, code=1).err
    assert "another cafs mountd runs" in told


def test_paths_that_cannot_be_used(short_tmp_path: Path) -> None:
    taken = short_tmp_path / "taken"
    taken.mkdir()
    (taken / "mountd.sock").write_text("somebody's")
    assert "is no socket" in run_cafs("mountd", "--run", taken, code=1).err
    assert (taken / "mountd.sock").read_text() == "somebody's"
    assert "too long" in run_cafs("mountd", "--run", short_tmp_path / ("x" * 120), code=2).err
    assert "--force belongs" in run_cafs("mountd", "--force", code=2).err
    (short_tmp_path / "file").write_text("")
    assert "cannot use" in run_cafs("mountd", "--run", short_tmp_path / "file/run", code=1).err


@contextmanager
def small_filesystem(path: Path) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        # The fixture that ends the mount server detaches whatever is mounted below its folder.
        subprocess.run(["umount", "-q", "-l", str(path)], check=False, stderr=subprocess.DEVNULL)


def test_a_full_state_directory(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/full", layers=2)
    with small_filesystem(short_tmp_path / "run"), mount_server(short_tmp_path) as server:
        first = server.client.add_layer(image.layer(0))
        ballast = server.run / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(1 << 20))
        failed = refused(server, image.layer(1))
        assert failed.reason is Reason.STORAGE
        with erofs(server, first, short_tmp_path / "e") as root:
            server.kill("server")
            assert sums_of(root) == image.sums[0]
        ballast.unlink()
        server.client.add_layer(image.layer(1))


def test_a_damaged_record_costs_its_layer_only(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/damaged", layers=4)
    with mount_server(short_tmp_path) as server:
        added = [server.client.add_layer(image.layer(number)) for number in range(4)]
        (server.run / f"layers/{added[0].name}.json").write_text("{")
        record = server.run / f"layers/{added[3].name}.json"
        record.write_text(record.read_text().replace("127.0.0.1", "oci:/etc"))
        next((short_tmp_path / "cache/mounted").glob(f"*/{added[1].name}.index")).write_bytes(b"short")
        with erofs(server, added[2], short_tmp_path / "e") as root:
            server.kill("server")
            assert sums_of(root) == image.sums[2]
            assert {layer["name"] for layer in server.client.layers()} == {added[2].name}
        assert "is damaged" in server.log
        assert "cannot be shown again" in server.log


def test_failed_reads_are_explained(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/explained", files=10)
    (short_tmp_path / "settings.toml").write_text("read_deadline_s = 1.0\n")
    with (
        FaultyRegistry(docker_registry.host) as faulty,
        mount_server(
            short_tmp_path, "--prefetch", "none", "--config", str(short_tmp_path / "settings.toml")
        ) as server,
    ):
        wanted = replace(image.layer(0), image=f"{faulty.host}/mountd/explained:v1")
        added = server.client.add_layer(wanted)
        with erofs(server, added, short_tmp_path / "e") as root:
            faulty.fail(Status(404), path="/blobs/")
            unread = next(path for path in sorted(root.iterdir()) if path.stat().st_size > 50_000)
            with pytest.raises(OSError, match="Input/output error"):
                unread.read_bytes()
            told = run_cafs("explain", unread).out
            assert f"/{unread.name}" in told
            assert "404" in told
            assert run_cafs("explain", server.run).out.count("chunk ") >= told.count("chunk ")


def test_an_artifact_whose_blobs_went_is_looked_for_anew(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/gone")
    with FaultyRegistry(docker_registry.host) as faulty, mount_server(short_tmp_path) as server:
        wanted = replace(image.layer(0), image=f"{faulty.host}/mountd/gone:v1")
        faulty.fail(Status(404), path="/blobs/sha256", method=None)
        assert refused(server, wanted).reason is Reason.NOT_CONVERTED
        faulty.heal()
        faulty.forget()
        server.client.add_layer(wanted)
        assert any("/manifests/" in request.path for request in faulty.settled())
