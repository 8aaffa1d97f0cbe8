"""A real mount beside a real ``cafs peer``: what it reads comes through the peer, and the peer may die."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from cafs.core.entry import Meta
from cafs.core.settings import Settings
from cafs.fetch.local_peer import peer_socket
from cafs.oci.registry.repository import RegistryRepository
from tests.support.faults import FaultyRegistry, Stall
from tests.support.http import ask
from tests.support.layered import Layer, push_layers
from tests.support.mounts import unmounted_after
from tests.support.notify import started
from tests.support.program import cafs_command, run_cafs

FILE = Meta(mode=0o100644)


class Node:
    """Directories of one node, and an image in a registry."""

    def __init__(self, path: Path, registry: FaultyRegistry) -> None:
        self.settings = Settings(
            cache_dir=path / "c", run_dir=path / "r", insecure_registries=(registry.host,)
        )
        self.target = path / "tree"
        self.target.mkdir()
        layers = path / "layers"
        layers.mkdir()
        for number in range(2):
            layer, rng = Layer(), Random(number)
            for name in range(6):
                layer.file(f"l{number}-{name}".encode(), FILE, rng.randbytes(40_000 * (name + 1)))
            layer.write(layers, number)
        self.path = path
        self.layers = layers
        self.registry = registry

    def push(self, name: str) -> str:
        """The image in a repository of its own."""
        return trio.run(self._push, name)

    async def _push(self, name: str) -> str:
        repository = RegistryRepository(self.registry.host, name, self.settings)
        image = await push_layers(repository, self.layers)
        await repository.aclose()
        return f"{self.registry.host}/{name}@{image.digest}"

    @property
    def flags(self) -> list[str]:
        settings = self.settings
        values = {
            "cache_dir": settings.cache_dir,
            "run_dir": settings.run_dir,
            "insecure_registries": settings.insecure_registries[0],
            "read_deadline_s": 30,
        }
        return [f"--set={key}={value}" for key, value in values.items()]

    def clear(self) -> None:
        """Forget chunks and indexes."""
        run_cafs("cache", "clear", *self.flags)
        shutil.rmtree(self.settings.cache_dir / "index")

    def status(self) -> Any:
        answer = trio.run(ask, peer_socket(self.settings.run_dir), "GET", "/v1/status")
        return json.loads(answer.body)

    @contextmanager
    def peer(self) -> Iterator[subprocess.Popen[bytes]]:
        """A peer that is ready."""
        command = [*cafs_command("peer", "--listen=127.0.0.1:0"), *self.flags]
        process = started(command, self.path / "log", self.path / "n")
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def mounted(self, source: str) -> Iterator[list[Path]]:
        """The mounted tree's regular files."""
        run_cafs("mount", source, self.target, "--prefetch=none", "--trusted", *self.flags)
        try:
            yield sorted(p for p in self.target.rglob("*") if p.is_file() and not p.is_symlink())
        finally:
            run_cafs("umount", self.target, *self.flags)


@pytest.fixture
def node(short_tmp_path: Path, faulty_registry: FaultyRegistry) -> Iterator[Node]:
    with unmounted_after(short_tmp_path):
        yield Node(short_tmp_path, faulty_registry)


def contents(files: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in files]


def test_a_mount_reads_through_its_peer(node: Node, faulty_registry: FaultyRegistry) -> None:
    source = node.push("peered")
    with node.mounted(source) as files:  # no peer yet
        expected = contents(files)
    node.clear()
    with node.peer(), node.mounted(source) as files:
        assert contents(files) == expected
        assert node.status()["downloads"]["succeeded"] == 2  # the layers' indexes
        chunks = node.status()["chunks"]
        assert chunks["brought"] > 10
        assert chunks["not_brought"] == 0
        assert chunks["brought"] == chunks["from_source"]  # the registry saw each chunk once
    with node.peer(), node.mounted(source) as files:
        assert contents(files) == expected
        assert node.status()["chunks"]["from_source"] == 0  # both have one store


def test_a_peer_killed_while_a_reader_waits_costs_it_a_moment(
    node: Node, faulty_registry: FaultyRegistry
) -> None:
    first, second = node.push("before"), node.push("killed")
    with node.mounted(first) as files:
        expected = contents(files)
    run_cafs("cache", "clear", *node.flags)
    with node.peer() as peer, node.mounted(second) as files:
        faulty_registry.forget()
        # The registry leaves the peer's request unanswered, so that the reader waits for the peer.
        faulty_registry.fail(Stall(), path="/killed/blobs/", times=1)
        largest = max(files, key=lambda path: path.stat().st_size)
        reader = subprocess.Popen(["cat", str(largest)], stdout=subprocess.PIPE)
        faulty_registry.wait_until_asked("/killed/blobs/")
        peer.send_signal(signal.SIGKILL)
        out, _ = reader.communicate(timeout=60)
        assert (reader.returncode, out) == (0, expected[files.index(largest)])
        assert contents(files) == expected
