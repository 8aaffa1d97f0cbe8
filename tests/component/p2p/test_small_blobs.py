"""Small blobs, such as layer indexes, that come through the peer when it has them or can get them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cafs.core.digest import sha256_digest
from cafs.core.settings import Settings
from cafs.core.source import BlobRef
from cafs.errors import IntegrityError
from cafs.fetch import local_peer
from cafs.fetch.local_peer import LocalPeer
from cafs.http11.messages import Reply, Request
from cafs.oci.registry.repository import RegistryRepository
from cafs.p2p.content import Content, OriginError, Wish
from tests.support.fetching import MemoryLayer
from tests.support.logs import ExpectedLogs
from tests.support.node_sockets import FakeContent, from_registry, listening, nodes

INDEX = b"a layer index, packed"
INDEX_BLOB = BlobRef(sha256_digest(INDEX), len(INDEX))


@pytest.fixture(scope="module")
def layer() -> MemoryLayer:
    return MemoryLayer([64 << 10])


def repository_in(folder: Path) -> RegistryRepository:
    """It is only asked for addresses and credentials."""
    settings = Settings(cache_dir=folder, run_dir=folder, insecure_registries=("registry.example",))
    return RegistryRepository("registry.example", "app", settings)


async def test_a_small_blob_comes_through_the_peer(short_tmp_path: Path, layer: MemoryLayer) -> None:
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        node.distributor.answer = lambda _: FakeContent(INDEX, 0, len(INDEX))
        peer = LocalPeer(node.path, None)
        assert await peer.blob(repository_in(short_tmp_path), INDEX_BLOB) == INDEX
        url = f"http://registry.example/v2/app/blobs/{INDEX_BLOB.digest}"
        assert node.distributor.wishes == [Wish(url=url, digest=INDEX_BLOB.digest)]
        peer.close()


def refused(_: Wish) -> Content:
    raise OriginError("who are you?", 401, (), b"")


@pytest.mark.parametrize(
    "answer",
    [
        refused,
        lambda _: FakeContent(INDEX[::-1], 0, len(INDEX)),
        lambda _: FakeContent(INDEX + b"!", 0, len(INDEX) + 1),
        lambda _: FakeContent(INDEX[:5], 0, 5),
        lambda _: FakeContent(INDEX[:5], 0, len(INDEX), IntegrityError("it is not what it should be")),
    ],
)
async def test_a_small_blob_that_the_peer_cannot_bring_is_the_registrys(
    short_tmp_path: Path, layer: MemoryLayer, expected_logs: ExpectedLogs, answer: Callable[[Wish], Content]
) -> None:
    expected_logs.allow("broken off")
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        node.distributor.answer = answer
        peer = LocalPeer(node.path, None)
        assert await peer.blob(repository_in(short_tmp_path), INDEX_BLOB) is None
        peer.close()


async def test_what_is_behind_a_proxy_is_not_asked_of_the_peer(
    short_tmp_path: Path, layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        peer = LocalPeer(node.path, None)
        assert await peer.blob(repository_in(short_tmp_path), INDEX_BLOB) is None
        assert node.distributor.wishes == []


async def test_nobody_waits_long_for_a_small_blob(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_peer, "BLOB_PATIENCE_S", 0.1)

    async def silent(_request: Request, _reply: Reply) -> None:
        await trio.sleep_forever()

    async with listening(short_tmp_path / "n", silent):
        assert (
            await LocalPeer(short_tmp_path / "n", None).blob(repository_in(short_tmp_path), INDEX_BLOB)
            is None
        )
    assert (
        await LocalPeer(short_tmp_path / "none", None).blob(repository_in(short_tmp_path), INDEX_BLOB) is None
    )
