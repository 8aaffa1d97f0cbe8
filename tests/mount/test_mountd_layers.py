"""Layers are added and removed in any order, by many at once, while others are read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cafs.control_socket.protocol import (
    ANNOUNCED_PATH,
    AddedLayer,
    Reason,
    RefusedError,
    encode_announcement,
    encode_json,
)
from cafs.fuse.erofs_mount import mount_image_file
from cafs.fuse.syscalls import UnmountFlag, unmount
from cafs.node.mountd.state import RunDirectory
from tests.support.faults import FaultyRegistry, Status
from tests.support.mountd import MountServer, PushedImage, erofs, mount_server, push_image, sums_of
from tests.support.oci import log_in
from tests.support.readers import reading
from tests.support.registry import PASSWORD, USER, Registry


def test_a_storm_of_adding_and_removing_disturbs_no_reader(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/storm", layers=8, files=20)
    rng = random.Random(3)

    def storm(number: int) -> None:
        for _ in range(12):
            added = server.client.add_layer(image.layer(number))
            if rng.random() < 0.8:
                server.client.remove_layer(added.name)

    with mount_server(short_tmp_path) as server:
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            with reading(root, image.sums[0], short_tmp_path) as wait_for:
                with ThreadPoolExecutor(14) as threads:
                    for done in [threads.submit(storm, 1 + n % 7) for n in range(14)]:
                        done.result()
                    server.kill("server")
                wait_for(20)
            for number in range(1, 8):
                again = server.client.add_layer(image.layer(number))
                with erofs(server, again, short_tmp_path / "other") as other:
                    assert sums_of(other) == image.sums[number]
        for layer in server.client.layers():
            server.client.remove_layer(layer["name"])
        server.wait_until_empty()
        assert list((short_tmp_path / "run/layers").iterdir()) == []
        server.stop()


@contextmanager
def detached(server: MountServer, added: AddedLayer, target: Path) -> Iterator[Path]:
    """Mounted, somebody is inside, and no name leads there any more."""
    target.mkdir()
    mount_image_file(server.file(added), target, trusted=True, cold=True)
    with (target / "f0").open("rb") as inside:
        unmount(target, UnmountFlag.DETACH)
        yield Path(f"/proc/self/fd/{inside.fileno()}")


@pytest.mark.parametrize("killed", [False, True])
def test_a_removed_layer_is_read_to_the_end_by_who_has_it_mounted(
    docker_registry: Registry, short_tmp_path: Path, killed: bool
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/held")
    with mount_server(short_tmp_path, "--prefetch", "none") as server:
        added = server.client.add_layer(image.layer(0))
        with detached(server, added, short_tmp_path / "e") as inside:
            server.client.remove_layer(added.name)
            assert not server.file(added).exists()
            if killed:
                server.kill("server")
            assert [layer["removed"] for layer in server.client.layers()] == [True]
            assert len(inside.read_bytes()) > 0
            # Wanted again meanwhile: the same layer, under its name.
            assert server.client.add_layer(image.layer(0)) == added
            assert server.file(added).exists()
            server.client.remove_layer(added.name)
        server.wait_until_empty()
        assert list((short_tmp_path / "run/layers").iterdir()) == []
        assert server.client.add_layer(image.layer(0)) == added
        with erofs(server, added, short_tmp_path / "again") as root:
            assert sums_of(root) == image.sums[0]


def test_many_ask_for_one_image_at_once(docker_registry: Registry, short_tmp_path: Path) -> None:
    with FaultyRegistry(docker_registry.host) as registry:
        image = push_image(docker_registry.host, short_tmp_path, repository="mountd/at-once", layers=4)
        here = PushedImage(
            image.reference.replace(docker_registry.host, registry.host), image.manifest, image.sums
        )
        with mount_server(short_tmp_path) as server:
            with ThreadPoolExecutor(16) as threads:
                found = list(threads.map(server.client.add_layer, [here.layer(n % 4) for n in range(16)]))
            assert len({layer.name for layer in found}) == 4
            asked = [(r.method, r.path) for r in registry.settled() if "/blobs/" not in r.path]
            assert asked
            assert max(Counter(asked).values()) <= 2, asked  # a profile and an artifact are both referrers


def test_a_later_server_knows_which_announced_layers_nobody_asked_for(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/announced", layers=3)

    def unclaimed() -> list[bool]:
        directory = RunDirectory(short_tmp_path / "run")
        found = {record.layer: record.unclaimed for record in directory.read_layers()}
        return [found[image.layer(number).layer] for number in range(len(found))]

    with mount_server(short_tmp_path, "--prefetch", "none") as server:
        server.client.ask("POST", ANNOUNCED_PATH, encode_announcement(image.reference))
        server.wait_for_layers(3)
        assert unclaimed() == [True, True, True]
        added = server.client.add_layer(image.layer(1))
        assert unclaimed() == [True, False, True]
        server.kill("server")
        server.client.add_layer(image.layer(2))
        assert server.client.add_layer(image.layer(1)) == added
        assert unclaimed() == [True, False, False]


def test_two_images_share_a_layer_and_each_registry_stands_in_for_the_other(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    first = push_image(docker_registry.host, short_tmp_path, repository="mountd/one", seed=7)
    (short_tmp_path / "mountd-one-7").rename(short_tmp_path / "used")
    second = push_image(docker_registry.host, short_tmp_path, repository="mountd/one", seed=7)
    assert second.manifest == first.manifest
    with FaultyRegistry(docker_registry.host) as faulty, mount_server(short_tmp_path) as server:
        failing = PushedImage(f"{faulty.host}/mountd/one:v1", first.manifest, first.sums)
        added = server.client.add_layer(failing.layer(0))
        assert server.client.add_layer(first.layer(0)) == added
        (described,) = server.client.layers()
        assert [image["image"] for image in described["images"]] == [failing.reference, first.reference]
        faulty.fail(Status(500), path="/blobs/")
        with erofs(server, added, short_tmp_path / "e") as root:
            assert sums_of(root) == first.sums[0]


def test_credentials_that_were_handed_over_survive_the_server(
    basic_registry: Registry, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        log_in(short_tmp_path, patched, basic_registry.host)
        image = push_image(basic_registry.host, short_tmp_path, repository="mountd/private")
    (short_tmp_path / "config.json").unlink()
    with mount_server(short_tmp_path, "--prefetch", "none") as server:
        with pytest.raises(RefusedError) as refused:
            server.client.add_layer(image.layer(0))
        assert refused.value.reason is Reason.UNAUTHORIZED
        credentials = {"host": basic_registry.host, "username": USER, "secret": PASSWORD}
        server.client.ask("PUT", "/credentials", encode_json(credentials))
        added = server.client.add_layer(image.layer(0))
        server.kill("server")
        with erofs(server, added, short_tmp_path / "e") as root:
            assert sums_of(root) == image.sums[0]
        written = [path.read_bytes() for path in server.run.glob("*") if path.is_file()]
        assert not any(PASSWORD.encode() in content for content in written)
