"""``cafs mountd``: layers come and go in one FUSE session, whatever is killed, and every byte is right."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.support.mountd import MountServer, erofs, mount_server, push_image, sums_of
from tests.support.patience import PATIENCE_S
from tests.support.readers import reading
from tests.support.registry import Registry


def test_layers_are_shown_read_and_taken_away(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/first", layers=3)
    with mount_server(short_tmp_path) as server:
        added = [server.client.add_layer(image.layer(number)) for number in range(3)]
        assert [server.client.add_layer(image.layer(number)) for number in range(3)] == added
        assert sorted(file.name for file in (server.run / "fuse/layers").iterdir()) == sorted(
            layer.name for layer in added
        )
        for layer, sums in zip(added, image.sums, strict=True):
            assert server.file(layer).stat().st_size == layer.virtual_bytes
            with erofs(server, layer, short_tmp_path / "e") as root:
                assert sums_of(root) == sums
        described = {layer["name"]: layer for layer in server.client.layers()}
        assert {layer["here_bytes"] for layer in described.values()} == {layer.data_bytes for layer in added}
        for layer in added:
            server.client.remove_layer(layer.name)
            server.client.remove_layer(layer.name)
            assert not server.file(layer).exists()
        server.wait_until_empty()
        server.stop()
        assert server.process.wait(PATIENCE_S) == 0
    assert not (short_tmp_path / "run/fuse").is_mount()
    assert list((short_tmp_path / "cache/mounted").iterdir()) == []


def kill_and_wait(server: MountServer, which: str) -> None:
    """kill -9, and wait until another process does its work."""
    killed = server.pid(which)
    server.kill(which)
    while server.client.status()[f"{which}_pid"] == killed:
        pass


def drop_page_cache(path: Path) -> None:
    """So that the next reads come from the server."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def test_fifty_kills_under_readers(docker_registry: Registry, short_tmp_path: Path) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/kills", files=60)
    rng = random.Random(5)
    with mount_server(short_tmp_path) as server:
        added = server.client.add_layer(image.layer(0))
        with erofs(server, added, short_tmp_path / "e") as root:
            with reading(root, image.sums[0], short_tmp_path) as wait_for:
                for _ in range(50):
                    wait_for(rng.randrange(1, 12))
                    drop_page_cache(server.file(added))
                    kill_and_wait(server, rng.choice(["server", "server", "supervisor"]))
            assert sums_of(root) == image.sums[0]
        assert server.client.add_layer(image.layer(0)) == added
        server.stop()


def test_a_supervisor_killed_while_it_takes_over_has_a_successor_too(
    docker_registry: Registry, short_tmp_path: Path
) -> None:
    image = push_image(docker_registry.host, short_tmp_path, repository="mountd/twice", files=60)
    with mount_server(short_tmp_path) as server:
        added = server.client.add_layer(image.layer(0))
        with (
            erofs(server, added, short_tmp_path / "e") as root,
            reading(root, image.sums[0], short_tmp_path) as wait_for,
        ):
            for _ in range(3):
                wait_for(5)
                heir = server.pid("server")
                server.kill("supervisor")
                children = Path(f"/proc/{heir}/task/{heir}/children")
                while not children.read_bytes():
                    pass  # it is still the server
                os.kill(heir, 9)
                while server.client.status()["supervisor_pid"] == heir:
                    pass
                drop_page_cache(server.file(added))
        server.stop()
